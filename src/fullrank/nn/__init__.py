"""Layers and models with low rank built in: attention, factorised maps, unfolded decompositions."""
