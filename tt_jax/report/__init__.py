"""`report.json` as one self-contained page: `plots` makes pictures of numbers, `page` the HTML around them."""
