"""`vidgen report`: an output as a folder of web pages. No Ray, no MindSpore, no server.

`survey` reads the ledger once, for figures and a sample of rows; `previews` makes posters and videos of the
sample; `charts` draws the figures; `pages` makes pages of all this, with the templates, styles and script
beside it; `folder` puts them in place. `writing` calls them in this order.
"""
