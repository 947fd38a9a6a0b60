// What a reader types as a number: 0.53, "0,53", 53%, 1/3, 2e-3, −1, ln(4)/2, 3^2, sqrt 2. It is a
// small grammar, so that no text is ever run as code. NaN for anything else.
window.dpoNumber = (() => {
  const constants = new Map([["pi", Math.PI], ["π", Math.PI], ["e", Math.E]]);
  const functions = new Map([
    ["ln", Math.log], ["log", Math.log], ["exp", Math.exp], ["sqrt", Math.sqrt],
  ]);
  const tokens = /(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|[a-zπ]+|\S/g;
  const longest = 100; // brackets in brackets without end would exhaust the stack

  const plain = (text) =>
    text
      .toLowerCase()
      .replace(/[−–]/g, "-")
      .replace(/[·×]/g, "*")
      .replace(/[÷:]/g, "/")
      .replace(/√/g, " sqrt ")
      .replace(/(\d),(?=\d)/g, "$1.");

  return (text) => {
    const found = (text.length <= longest && plain(text).match(tokens)) || [];
    let place = 0;
    const take = (...marks) => (marks.includes(found[place]) ? found[place++] : null);

    const sum = () => {
      let value = product();
      for (let mark; (mark = take("+", "-")); ) value += (mark === "+" ? 1 : -1) * product();
      return value;
    };
    const product = () => {
      let value = signed();
      for (let mark; (mark = take("*", "/")); ) value *= mark === "*" ? signed() : 1 / signed();
      return value;
    };
    const signed = () => (take("-") ? -signed() : take("+") ? signed() : power());
    const power = () => {
      const base = share();
      return take("^") ? base ** signed() : base;
    };
    const share = () => {
      let value = atom();
      while (take("%")) value /= 100;
      return value;
    };
    const atom = () => {
      if (take("(")) {
        const value = sum();
        return take(")") ? value : NaN;
      }
      const word = found[place++] ?? "";
      if (functions.has(word)) return functions.get(word)(atom());
      return constants.get(word) ?? (/^[\d.]/.test(word) ? Number(word) : NaN);
    };

    const value = sum();
    return place === found.length && Number.isFinite(value) ? value : NaN;
  };
})();
