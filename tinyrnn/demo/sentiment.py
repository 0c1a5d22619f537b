"""Many to one: a remark about a product in, word by word, and whether it praises or complains out."""

from __future__ import annotations

from tinyrnn.demo import About

ABOUT = About("many to one", "praise or complaint, in remarks about products", "a remark, or a .txt file with one a line")
