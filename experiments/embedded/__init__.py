"""Recipes of the weights in mrg_grpo/embedded: the base policy and the labeler, made from nothing."""
