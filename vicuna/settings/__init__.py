"""The insides of `vicuna.config`: the tree of settings, where values are given, and how they are checked."""
