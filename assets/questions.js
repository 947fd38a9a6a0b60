// Questions that take an answer in the page. Their words are there without this script; the data
// beside them says how to judge (judge.js), and answers.js keeps what was said.
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.append(...children);
    return element;
  };
  // Markup of our own data, in which there may be mathematics; never what a reader has typed.
  const html = (text) => {
    const element = make("span");
    element.innerHTML = text;
    return element;
  };
  const dataOf = (root) => JSON.parse(root.querySelector("script").textContent);
  const typeset = (element) => {
    if (!element.querySelector(".math")) return;
    window.MathJax?.startup?.promise?.then(() => MathJax.typesetPromise([element]));
  };

  // ---- controls: { read, fill }, where read gives undefined while there is no answer

  const field = (root, data, form) => {
    const input = make("input", { type: "text", autocomplete: "off", spellcheck: false, size: 12 });
    form.append(make("label", {}, "Your answer ", input, " ", html(data.unit)));
    return { read: () => input.value.trim() || undefined, fill: (said) => (input.value = said) };
  };

  const radios = (root, data, form) => {
    const inputs = data.choices.map(() =>
      make("input", { type: "radio", name: data.name, autocomplete: "off" }),
    );
    const labels = data.choices.map((text, place) => make("label", {}, inputs[place], html(text)));
    const group = { class: "dpo-radios", role: "radiogroup", "aria-label": "Choices" };
    form.append(make("div", group, ...labels));
    const read = () => {
      const place = inputs.findIndex((input) => input.checked);
      return place < 0 ? undefined : place;
    };
    return { read, fill: (said) => inputs[said] && (inputs[said].checked = true) };
  };

  const order = (root, data, form, tell) => {
    let chosen = [];
    const list = make("ol");
    const undo = make("button", { type: "button" }, "Take the last step back");
    const buttons = data.steps.map((text) => make("button", { type: "button" }, html(text)));
    const draw = () => {
      list.replaceChildren(...chosen.map((step) => make("li", {}, html(data.steps[step]))));
      buttons.forEach((button, step) => (button.hidden = chosen.includes(step)));
      undo.disabled = !chosen.length;
      typeset(list);
    };
    const fill = (said) => {
      chosen = said.filter((step) => step in buttons);
      draw();
    };
    buttons.forEach((button, step) =>
      button.addEventListener("click", () => {
        fill([...chosen, step]);
        (buttons.find((other) => !other.hidden) ?? undo).focus(); // the pressed one is gone
        tell(`Step ${chosen.length}: `, html(data.steps[step]));
      }),
    );
    undo.addEventListener("click", () => {
      const step = chosen.at(-1);
      fill(chosen.slice(0, -1));
      buttons[step].focus();
      tell(`Taken back. Steps so far: ${chosen.length}.`);
    });
    form.append(make("p", {}, "Press the steps in their order."), list);
    form.append(make("div", { class: "dpo-pool" }, ...buttons), undo);
    draw();
    return { read: () => (chosen.length ? chosen : undefined), fill };
  };

  const gaps = (root, data, form) => {
    const options = () => data.options.map((text, place) => new Option(text, place));
    const selects = data.answer.map((_, gap) =>
      make("select", { autocomplete: "off", "aria-label": `Gap ${gap + 1}` },
        new Option(`gap ${gap + 1}`, ""), ...options()),
    );
    root
      .querySelectorAll(".dpo-gap")
      .forEach((gap) => gap.replaceChildren(selects[gap.dataset.gap - 1]));
    form.append(...root.querySelectorAll(".dpo-line"));
    const read = () => {
      const said = selects.map((select) => select.value);
      return said.includes("") ? undefined : said.map(Number);
    };
    return { read, fill: (said) => selects.forEach((select, gap) => (select.value = said[gap])) };
  };

  const controls = {
    number: field, choice: radios, order, blanks: gaps,
    "predict-number": field, "predict-choice": radios,
  };

  // ---- what all questions do

  const openings = { right: "Right.", nearly: "Nearly:", "not yet": "Not yet.", made: "Kept." };
  const earlier = {
    first: "Answered before: right at the first try.",
    later: "Answered before: right, after another try.",
    shown: "The answer was looked up before.",
    made: "Your prediction is kept.",
  };

  // The best that was reached counts, and a right answer after a look at ours does not.
  const keep = (name, said, verdict) => {
    const { state, tries = 0 } = dpoAnswers.get(name);
    const right = tries ? "later" : "first";
    const reached = { made: "made", right }[verdict] ?? "tried";
    const settled = ["first", "later", "shown"].includes(state);
    dpoAnswers.put(name, { said, state: settled ? state : reached, tries: tries + 1 });
  };

  const enhance = (root) => {
    const data = dataOf(root);
    const predicted = data.kind.startsWith("predict");
    const form = make("form", { class: "dpo-form", novalidate: "" });
    const reply = make("p", { class: "dpo-reply", role: "status" });
    const tell = (...words) => {
      reply.replaceChildren(...words);
      typeset(reply);
    };
    const control = controls[data.kind](root, data, form, tell);
    root.querySelector(".dpo-choices, .dpo-bounds")?.remove();
    const submit = make("button", { type: "submit" }, predicted ? "Keep my prediction" : "Check");
    const show = make("button", { type: "button" }, "Show the answer");
    const answer = root.querySelector(".dpo-answer");
    form.append(make("div", { class: "dpo-buttons" }, submit, ...(answer ? [show] : [])));
    root.querySelector(".dpo-hint, .dpo-answer, script").before(form, reply);

    // Links are hidden, not removed: the theme follows them all, and throws for one that is gone.
    const link = make("a", { href: `#q-${data.name}-seen`, hidden: "" }, "To the result");
    if (predicted) submit.after(link);
    const unfold = (open) => {
      answer.hidden = false;
      answer.open = open;
      show.hidden = true;
    };

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const said = control.read();
      if (said === undefined) return tell("There is no whole answer yet.");
      const [verdict, why] = dpoJudge[data.kind](said, data);
      if (verdict === null) return tell(why);
      keep(data.name, said, verdict);
      root.dataset.verdict = verdict;
      const hint = verdict === "not yet" && data.hint ? [" Hint: ", html(data.hint)] : [];
      const opening = make("strong", {}, openings[verdict]);
      tell(opening, " ", html(why), ...hint);
      link.hidden = verdict !== "made";
      if (verdict === "right") unfold(true);
    });

    show.addEventListener("click", () => {
      const known = dpoAnswers.get(data.name);
      const right = ["first", "later"].includes(known.state);
      if (!right) dpoAnswers.put(data.name, { ...known, state: "shown" });
      unfold(true);
      tell("The answer stands below.");
      answer.querySelector("summary").focus();
    });

    const { said, state } = dpoAnswers.get(data.name);
    if (said !== undefined) control.fill(said);
    if (earlier[state]) tell(earlier[state]);
    link.hidden = state !== "made";
    if (answer) answer.hidden = true;
    if (answer && earlier[state]) unfold(false);
    typeset(root);
  };

  const revisit = (root) => {
    const data = dataOf(root);
    const { choices, unit } = dataOf(document.getElementById(`q-${data.name}`));
    const link = make("a", { href: `#q-${data.name}` }, "You made no prediction");
    const words = make("span");
    root.querySelector(".dpo-said").replaceChildren(link, words);
    const update = () => {
      const { said } = dpoAnswers.get(data.name);
      const known = choices ? choices[said] !== undefined : said !== undefined;
      const shown = choices ? ["“", html(choices[said]), "”"] : [said, " ", html(unit)];
      link.hidden = known;
      words.replaceChildren(...(known ? ["You said ", ...shown] : []), `; ${data.subject}`);
      typeset(words);
    };
    addEventListener("dpo-answers", update);
    update();
  };

  addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".dpo-question").forEach(enhance);
    document.querySelectorAll(".dpo-revisit").forEach(revisit);
  });
})();
