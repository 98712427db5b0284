"""Fine-tune a causal language model: packed samples, loss on the answers, checkpoints that survive a kill."""
