// What a reader can change in the workbench: each input is an element, `draw(state)`, and calls
// `change(part of a state, the field that was typed in)`.
window.dpoInputs = (() => {
  const { sum, table } = window.dpoForms;
  const { short } = window.dpoWords;
  const VIEWS = { optimum: "Best policy", preferences: "Preferences", loss: "DPO loss",
    fibre: "Rewards and policies" };
  const MARKS = /[,;&=#%]/g; // what separates values in an address

  let made = 0;
  const make = (tag, properties = {}, ...children) => {
    const { class: kind, ...others } = properties;
    const element = Object.assign(document.createElement(tag), others);
    if (kind) element.className = kind;
    element.append(...children);
    return element;
  };
  const hidden = (words) => make("span", { class: "dpo-unseen" }, words);

  const number = (text) => (text.trim() === "" ? NaN : Number(text));

  const grid = (head, names, rows) =>
    make("table", {},
      make("thead", {}, make("tr", {}, ...head.map((word) => make("th", { scope: "col" }, word)))),
      make("tbody", {}, ...names.map((name, i) => make("tr", {},
        make("th", { scope: "row" }, name), ...rows[i].map((cell) => make("td", {}, cell))))));

  // A number that can be typed, and a slider beside it.
  const dial = (words, { min, max, step, place = (x) => x, value = (x) => x }, set) => {
    const id = `dpo-dial-${++made}`, of = hidden("");
    const typed = make("input", { type: "number", step: "any", id });
    const slider = make("input", { type: "range", min, max, step });
    typed.addEventListener("input", () => set(number(typed.value), false, typed));
    slider.addEventListener("input", () => set(value(Number(slider.value)), true, slider));
    const label = make("label", { htmlFor: id }, words, of);
    const show = (now, name, position = now) => {
      if (number(typed.value) !== now) typed.value = Number(now.toPrecision(4));
      if (Number(slider.value) !== place(position)) slider.value = place(position);
      typed.removeAttribute("aria-invalid");
      of.textContent = name && ` of ${name}`;
      slider.setAttribute("aria-label", `${label.textContent}, slider`);
      slider.setAttribute("aria-valuetext", `${words} ${short(position)}`);
    };
    return { element: make("div", { class: "dpo-dial" }, label, typed, slider), show };
  };

  const views = (change) => {
    const group = `dpo-view-${++made}`;
    const radios = Object.entries(VIEWS).map(([view, words]) => {
      const radio = make("input", { type: "radio", name: group, value: view });
      radio.addEventListener("change", () => change({ view }));
      return [radio, make("label", {}, radio, ` ${words}`)];
    });
    const legend = make("legend", {}, "Look at");
    const labels = radios.map(([, label]) => label);
    const element = make("fieldset", { class: "dpo-views" }, legend, ...labels);
    const draw = ({ view, reward }) => radios.forEach(([radio]) => {
      radio.checked = radio.value === view;
      radio.disabled = radio.value === "fibre" && reward.length !== 3;
    });
    return { element, draw };
  };

  // Dragging one probability scales the others, from where they were when it was taken up.
  const shared = (ref, k, share) => {
    const rest = sum(ref) - ref[k];
    return ref.map((weight, i) => {
      if (i === k) return share;
      return (1 - share) * (rest > 0 ? weight / rest : 1 / (ref.length - 1));
    });
  };

  const answer = (k, get, change) => {
    const id = `dpo-name-${++made}`, held = { ref: null };
    const name = make("input", { type: "text", id, maxLength: 24, autocomplete: "off" });
    name.addEventListener("input", () =>
      change({ names: get().names.with(k, name.value.replace(MARKS, " ") || `answer ${k + 1}`) }));
    const reward = dial("reward", { min: -5, max: 5, step: 0.05 },
      (value, _, input) => change({ reward: get().reward.with(k, value) }, input));
    const ref = dial("reference", { min: 0, max: 1, step: 0.01 }, (value, dragged, input) => {
      if (!dragged) return change({ ref: get().ref.with(k, value) }, input);
      if (get().ref !== held.made) held.ref = get().ref;
      held.made = shared(held.ref, k, value);
      change({ ref: held.made }, input);
    });
    const remove = make("button", { type: "button" }, "Remove", hidden(""));
    remove.addEventListener("click", () => change.remove(k));
    const draw = ({ names, reward: rewards, ref: weights }) => {
      if (document.activeElement !== name) name.value = names[k];
      reward.show(rewards[k], names[k]);
      ref.show(weights[k], names[k], weights[k] / sum(weights));
      remove.lastChild.textContent = ` ${names[k]}`;
      remove.disabled = names.length === 2;
    };
    const named = make("div", { class: "dpo-dial" },
      make("label", { htmlFor: id }, `answer ${k + 1}`), name);
    const element = make("div", { class: "dpo-entry" }, named, reward.element, ref.element, remove);
    return { element, draw, name };
  };

  const answers = (get, change) => {
    const list = make("div"), add = make("button", { type: "button" }, "Add an answer");
    let rows = [];
    const without = (values, k) => values.filter((_, i) => i !== k);
    const steer = Object.assign((...told) => change(...told), {
      remove: (k) => {
        const { names, reward, ref, wins } = get(), left = without(ref, k);
        change({ names: without(names, k), reward: without(reward, k),
          ref: sum(left) > 0 ? left : left.map(() => 1),
          wins: wins && without(wins, k).map((row) => without(row, k)) });
        rows[Math.min(k, rows.length - 1)].name.focus();
      },
    });
    add.addEventListener("click", () => {
      const { names, reward, ref, wins } = get(), size = names.length;
      change({ names: [...names, `answer ${size + 1}`], reward: [...reward, 0],
        ref: [...ref, sum(ref) / size],
        wins: wins && table(size + 1, (i, j) => wins[i]?.[j] ?? 0) });
      rows[size].name.focus();
    });
    const draw = (state) => {
      if (rows.length !== state.names.length) {
        rows = state.names.map((_, k) => answer(k, get, steer));
        list.replaceChildren(...rows.map((row) => row.element));
      }
      add.disabled = rows.length === 6;
      rows.forEach((row) => row.draw(state));
    };
    return { element: make("div", {}, list, add), draw };
  };

  const temperature = (change) => {
    const low = Math.log10(0.02), high = Math.log10(50);
    const made = dial("β", { min: low, max: high, step: (high - low) / 170,
      place: Math.log10, value: (place) => Number((10 ** place).toPrecision(3)) },
      (beta, _, input) => change({ beta }, input));
    return { element: made.element, draw: ({ beta }) => made.show(beta, "") };
  };

  // The same number added to every reward.
  const fibreDial = (get, change) => {
    const mean = () => sum(get().reward) / get().reward.length;
    const made = dial("mean reward (moves all along the fibre)", { min: -5, max: 5, step: 0.05 },
      (value, _, input) => {
        const by = value - mean();
        change({ reward: get().reward.map((r) => Number((r + by).toFixed(9))) }, input);
      });
    const draw = ({ view }) => {
      made.element.hidden = view !== "fibre";
      made.show(Number(mean().toFixed(9)), "");
    };
    return { element: made.element, draw };
  };

  const winTable = (get, change) => {
    const element = make("fieldset", { class: "dpo-wins" });
    let inputs = [];
    const build = (names) => {
      inputs = table(names.length, (i, j) => {
        const input = make("input", { type: "number", min: 0, step: 1, hidden: i === j });
        input.addEventListener("input", () =>
          change({ wins: get().wins.with(i, get().wins[i].with(j, number(input.value))) }, input));
        return input;
      });
      const legend = make("legend", {}, "How often the row's answer was preferred to the column's");
      element.replaceChildren(legend, grid(["wins", ...names], names, inputs));
    };
    const draw = ({ view, names, wins }) => {
      element.hidden = view !== "loss";
      if (element.hidden) return;
      if (element.dataset.names !== names.join()) build(names);
      element.dataset.names = names.join();
      inputs.forEach((row, i) => row.forEach((input, j) => {
        input.removeAttribute("aria-invalid");
        input.setAttribute("aria-label", `wins of ${names[i]} over ${names[j]}`);
        if (number(input.value) !== wins[i][j]) input.value = wins[i][j];
      }));
    };
    return { element, draw };
  };

  return { VIEWS, make, grid, number, views, answers, temperature, fibreDial, winTable };
})();
