"""Instruction data written by a text-only language model from the captions and boxes of COCO images.

`requests` converts annotations to requests for a provider's batch service, vLLM's batch runner, or `send`, which sends
them to an OpenAI-compatible endpoint. `read` converts the results to conversations.

The method is that of Liu et al., "Visual Instruction Tuning", https://arxiv.org/abs/2304.08485, section 3.
"""
