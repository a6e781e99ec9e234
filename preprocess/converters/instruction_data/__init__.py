"""Instruction data that a text-only model writes from the captions and boxes of COCO images.

`requests` turns annotations into requests, `send` gets them answered, `read` turns the answers into conversations. The
steps share files only, so that a provider's batch service can stand in for `send`. See docs/instructions.md.

The method is that of Liu et al., "Visual Instruction Tuning", https://arxiv.org/abs/2304.08485, section 3.
(`preprocess.converters.instructions` is something else: LLaVA's list of instructions for brief descriptions.)
"""
