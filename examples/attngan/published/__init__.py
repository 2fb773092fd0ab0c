"""What people have of a published AttnGAN: its files, read into our classes."""
