"""Real footage through the data engine: captions that a reader of keyframes wrote, and what stages cost."""
