"""Instruction data that a text-only model writes from the captions and boxes of COCO images.

`requests` turns annotations into requests for a provider's batch service, vLLM's batch runner or `send`, which sends
them to an OpenAI-compatible endpoint; `read` turns the results into conversations.

The method is that of Liu et al., "Visual Instruction Tuning", https://arxiv.org/abs/2304.08485, section 3.
(`converters/core/brief_instructions.py` is something else: LLaVA's list of instructions for brief descriptions.)
"""
