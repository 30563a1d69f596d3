"""The page of `clx report`: template, style and script."""
