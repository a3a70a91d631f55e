"""The report: the brief's exhibits computed, measured, cited, or honestly empty.

One self-contained HTML in English and Traditional Chinese, and the figures behind every chart and
table as CSV. May import only dougong.plan and what that may import; jinja2 for our own template.
"""
