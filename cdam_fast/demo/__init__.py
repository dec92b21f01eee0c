"""The page to try CDAM on: `session` holds the model, `work` does what the page asks for, `page` is what one sees."""
