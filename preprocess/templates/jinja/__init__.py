"""Jinja chat templates from the tokenizer's folder or a file: `dataset.system_prompt_style: chat_template`."""
