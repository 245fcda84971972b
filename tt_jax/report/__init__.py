"""Reports as self-contained pages: `plots` makes pictures of numbers, `page` fills a template of `templates/`."""
