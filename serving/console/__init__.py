"""A page to look at a service and try requests: `console.py` its routes, `console.html` the page."""
