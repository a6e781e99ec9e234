"""`dataset.system_prompt_style: chat_template`: a Jinja chat template, of the tokenizer's folder or a file."""
