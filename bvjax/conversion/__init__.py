"""PyTorch checkpoints in and out: name tables, detection, strict streaming conversion, LoRA."""
