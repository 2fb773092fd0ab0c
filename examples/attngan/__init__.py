"""AttnGAN, and what the retrofit makes of it."""
