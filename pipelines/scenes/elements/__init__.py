"""Building blocks of every category: seeded choices, names and fonts, drawing, pictures of objects, questions."""
