"""Learn to order: ranking measures, rank correlation, click models, unbiased learning to rank."""
