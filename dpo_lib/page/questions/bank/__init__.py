"""Questions from each chapter for the heads of later ones, in files by the chapters' numbers."""
