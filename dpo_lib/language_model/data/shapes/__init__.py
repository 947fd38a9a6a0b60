"""From a row, in any shape in use, to prompt and answers as text."""
