"""The layout of a context, compared with the authors' published files."""

import json

import pytest
from coco_files import dog, write_coco
from conftest import needs_shared, shared_folder

from preprocess.converters.instruction_data.coco import read_annotations
from preprocess.converters.instruction_data.contexts import Box, context, normalised

# Layout of playground/data/prompts/{complex_reasoning/002,detail_description/000}_caps.txt of
# https://github.com/haotian-liu/LLaVA at 53ea95d, with each character of a caption written as an x. Captions of the two
# images have the lengths given here; boxes are facts of COCO.
PUBLISHED = [
    (
        [70, 39, 64, 47, 39],
        [("fire hydrant", (0.326, 0.612, 0.426, 0.72))],
        "{0}\n{1}\n{2}\n{3}\n{4}\n\nfire hydrant: [0.326, 0.612, 0.426, 0.72]",
        306,
    ),
    (
        [54, 53, 55, 58, 79],
        [
            ("bicycle", (0.287, 0.641, 0.507, 0.874)),
            ("bicycle", (0.566, 0.667, 0.63, 0.731)),
            ("boat", (0.318, 0.579, 0.575, 0.724)),
            ("boat", (0.704, 0.607, 0.818, 0.727)),
            ("boat", (0.818, 0.601, 0.942, 0.744)),
            ("boat", (0.002, 0.53, 0.243, 0.71)),
            ("boat", (0.541, 0.611, 0.668, 0.731)),
            ("person", (0.778, 0.527, 0.797, 0.57)),
            ("cup", (0.708, 0.733, 0.724, 0.758)),
            ("boat", (0.236, 0.532, 0.404, 0.64)),
            ("boat", (0.81, 0.632, 0.836, 0.676)),
            ("boat", (0.957, 0.526, 1.0, 0.752)),
        ],
        "{0}\n{1}\n{2}\n{3}\n{4}\n\n"
        "bicycle: [0.287, 0.641, 0.507, 0.874]\nbicycle: [0.566, 0.667, 0.63, 0.731]\n"
        "boat: [0.318, 0.579, 0.575, 0.724]\nboat: [0.704, 0.607, 0.818, 0.727]\n"
        "boat: [0.818, 0.601, 0.942, 0.744]\nboat: [0.002, 0.53, 0.243, 0.71]\n"
        "boat: [0.541, 0.611, 0.668, 0.731]\nperson: [0.778, 0.527, 0.797, 0.57]\n"
        "cup: [0.708, 0.733, 0.724, 0.758]\nboat: [0.236, 0.532, 0.404, 0.64]\n"
        "boat: [0.81, 0.632, 0.836, 0.676]\nboat: [0.957, 0.526, 1.0, 0.752]",
        723,
    ),
]


@pytest.mark.parametrize(("lengths", "boxes", "layout", "size"), PUBLISHED)
def test_the_layout_is_that_of_the_authors_files_byte_for_byte(lengths, boxes, layout, size):
    captions = ["x" * length for length in lengths]
    made = context(captions, [Box(category, corners) for category, corners in boxes])
    assert made.encode() == layout.format(*captions).encode()
    assert len(made.encode()) == size  # of the published file


@pytest.mark.slow
@needs_shared("conversations")
def test_captions_and_boxes_of_the_authors_80_images_are_read_exactly_from_coco_annotations(tmp_path):
    path = shared_folder("conversations") / "llava_caps_boxes_80.jsonl"
    images = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    photos = read_annotations(*write_coco(tmp_path, images)).photos
    assert len(photos) == 80
    back = [
        {
            "id": photo.image.removesuffix(".jpg"),
            "image": photo.image,
            "captions": photo.captions,
            "instances": [{"category": box.category, "bbox": list(box.corners)} for box in photo.boxes],
        }
        for photo in photos.values()
    ]
    assert back == images
    assert not any(photo.fault for photo in photos.values())


@pytest.mark.slow
@needs_shared("images")
def test_boxes_of_coco_are_inside_their_image():
    folder = shared_folder("images") / "coco" / "annotations"
    found = read_annotations(folder / "captions_val2017.json", folder / "instances_val2017.json")
    corners = [box.corners for photo in found.photos.values() for box in photo.boxes]
    assert len(corners) == 624
    assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in corners)


def test_numbers_are_formatted_as_by_python(tmp_path):
    photo = read_annotations(*write_coco(tmp_path, [dog()])).photos["7"]
    assert context(photo.captions, photo.boxes) == (
        "A dog on the grass.\nA brown dog plays with a ball.\n\n"
        "dog: [0.24, 0.1, 0.75, 1.0]\nsports ball: [0.8, 0.905, 0.901, 1.0]"
    )


def test_an_image_without_boxes_is_described_only_by_its_captions():
    assert context(["A field.", "Grass."], []) == "A field.\nGrass."


def test_a_zero_has_no_sign():
    assert str(normalised(-0.0001, 0, 10, 10, of=(640, 480))) == "(0.0, 0.0, 0.016, 0.021)"
