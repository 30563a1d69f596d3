"""The page that `clx report` writes."""
