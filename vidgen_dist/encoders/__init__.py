"""Text and vision encoders, as transformers has them."""
