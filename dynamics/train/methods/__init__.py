"""Methods that train on problems of a task: supervised fine-tuning, and reinforcement learning with verifiable rewards."""
