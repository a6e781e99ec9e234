"""Read and validate a params file with `section.key=value` overrides."""

from __future__ import annotations

from collections.abc import Iterable

from preprocess.settings import SettingsError, find_file, read_settings
from trainer.params import Params


class ParamsError(SettingsError):
    """Params, arguments or inputs are wrong; the message is one sentence for the user."""


def load_params(name: str, overrides: Iterable[str] = ()) -> Params:
    """Read and validate a params file.

    Args:
        name: path of a YAML file, or the name of one that ships with the package.
        overrides: `section.key=value` strings, see `settings.read_settings`.

    Raises:
        ParamsError: the file is unreadable or not YAML, has unknown or duplicate keys, or wrong types or values.
    """
    try:
        path = find_file(name, "--params", "params_*.yaml")
        return read_settings(Params, path, overrides, example="train_input.batch_size=16")
    except SettingsError as error:
        raise ParamsError(str(error)) from None
