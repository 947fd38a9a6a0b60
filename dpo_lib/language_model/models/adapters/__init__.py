"""LoRA adapters: in a model, and in folders of peft's format."""
