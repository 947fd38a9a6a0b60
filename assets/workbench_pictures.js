// The workbench's pictures. Each is made once, { element, draw }, and `draw` moves what is there.
// They are silent: the sentence and the tables say the same to a screen reader.
window.dpoPictures = (() => {
  const { optimum, sum } = window.dpoForms;
  const BANDS = [0.01, 0.05, 0.15, 0.3, 0.5, 0.75, 1]; // of the way down from the top
  const CORNERS = [[160, 28], [30, 253.2], [290, 253.2]];
  const TEMPERATURES = Array.from({ length: 81 }, (_, k) => 10 ** (3 - k / 16)); // 1000 to 0.01

  const svg = (name, attributes = {}, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.append(...children);
    return made;
  };

  const line = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
  const brief = (name, length) => (name.length > length ? `${name.slice(0, length - 1)}…` : name);
  const text = (attributes) => svg("text", attributes);
  const SHAPES = { square: "M-5-5H5V5H-5Z", circle: "M-6 0A6 6 0 1 0 6 0A6 6 0 1 0-6 0Z",
    diamond: "M0-7L7 0L0 7L-7 0Z", line: "M-7 0H7", dashed: "M-7 0H7" };

  // A key: [class, shape, words] for each thing that can be seen.
  const figure = (drawing, key) => {
    const caption = document.createElement("figcaption");
    for (const [kind, shape, words] of key) {
      const sign = svg("svg", { viewBox: "-8 -8 16 16", class: "dpo-key" });
      sign.append(svg("path", { d: SHAPES[shape], class: `dpo-${kind}` }));
      const item = document.createElement("span");
      item.append(sign, words);
      caption.append(item);
    }
    const element = document.createElement("figure");
    element.setAttribute("aria-hidden", "true");
    element.append(...[drawing].flat(), caption);
    return element;
  };

  const frame = (...children) => svg("svg", { viewBox: "0 0 320 290" }, ...children);
  const point = (kind, shape) => svg("path", { d: SHAPES[shape], class: `dpo-${kind}` });
  const move = (mark, [x, y]) => mark.setAttribute("transform", `translate(${x} ${y})`);
  const inTriangle = (p) => [0, 1].map((axis) => sum(p.map((share, i) => share * CORNERS[i][axis])));
  const exp = (logs) => logs.map(Math.exp);

  // Shares and entropy of each pixel of the triangle's box; they never change.
  const WIDE = 130, HIGH = 113;
  const PIXELS = Float64Array.from(Array.from({ length: WIDE * HIGH }, (_, k) => {
    const top = 1 - (Math.floor(k / WIDE) + 0.5) / HIGH, right = ((k % WIDE) + 0.5) / WIDE - top / 2;
    const shares = [top, 1 - top - right, right].map((share) => Math.max(share, 0));
    return [...shares, -sum(shares.map((share) => (share > 0 ? share * Math.log(share) : 0)))];
  }).flat());
  const BLUE = Uint8ClampedArray.from(PIXELS, (_, k) => [47, 134, 200, 0][k % 4]);
  const IMAGE = new ImageData(BLUE, WIDE);

  // Objective (3) is linear in the policy plus beta times its entropy.
  const paintHill = (canvas, { reward, beta }, { logRef, logZ }) => {
    canvas.hidden = logRef.includes(-Infinity);
    if (canvas.hidden) return;
    const corner = reward.map((r, i) => r + beta * logRef[i]);
    const top = beta * logZ, depth = top - Math.min(...corner);
    for (let k = 0; k < PIXELS.length; k += 4) {
      const reached = PIXELS[k] * corner[0] + PIXELS[k + 1] * corner[1] + PIXELS[k + 2] * corner[2];
      const below = (top - reached - beta * PIXELS[k + 3]) / depth;
      let band = 0;
      while (band < 6 && below > BANDS[band]) band++;
      IMAGE.data[k + 3] = 150 - 24 * band;
    }
    canvas.getContext("2d").putImageData(IMAGE, 0, 0);
  };

  const triangle = (view) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: WIDE, height: HIGH });
    const path = svg("path", { class: "dpo-optimum dpo-open" });
    const grid = [svg("path", { class: "dpo-first" }), svg("path", { class: "dpo-second" })];
    const ref = point("reference", "square"), best = point("optimum", "circle");
    const least = point("least", "diamond");
    const labels = [{ x: 160, y: 18, "text-anchor": "middle" }, { x: 8, y: 274 },
      { x: 312, y: 274, "text-anchor": "end" }].map(text);
    const drawing = frame(svg("path", { d: `${line(CORNERS)}Z`, class: "dpo-ink" }),
      ...(view === "fibre" ? grid : [path]), ref, least, best, ...labels);
    const box = document.createElement("div");
    box.className = "dpo-triangle";
    box.append(...(view === "fibre" ? [drawing] : [canvas, drawing]));
    const key = [["reference", "square", "reference"], ["optimum", "circle", "optimum (4)"]];
    if (view === "fibre") key.push(["first", "line", "same grid"]);
    else key.push(["optimum dpo-open", "line", "optima, β from ∞ to 0"]);
    if (view === "loss") key.push(["least", "diamond", "smallest loss"]);

    const draw = (state, world) => {
      const { reward, names } = state, { logRef } = world;
      labels.forEach((label, i) => (label.textContent = brief(names[i], view === "fibre" ? 9 : 18)));
      move(ref, inTriangle(exp(logRef)));
      move(best, inTriangle(exp(world.logPolicy)));
      least.style.display = view === "loss" && leastPolicy(world) ? "" : "none";
      if (view === "loss" && leastPolicy(world)) move(least, inTriangle(exp(leastPolicy(world))));
      const at = (r, beta) => inTriangle(exp(optimum(r, logRef, beta).logPolicy));
      if (view === "fibre") {
        gridLines(rangeOf(reward)).forEach((lines, k) =>
          grid[k].setAttribute("d", lines.map((points) =>
            line(points.map(([u, v]) => at([u, v, 0], state.beta)))).join("")));
      } else {
        paintHill(canvas, state, world);
        path.setAttribute("d", line(TEMPERATURES.map((beta) => at(reward, beta))));
      }
    };
    return { element: figure(box, key), draw };
  };

  const leastPolicy = ({ fit }) => fit?.attained && fit.determined && fit.logPolicy;

  const bars = (view) => {
    const kinds = [["reference", "reference"], ["optimum", "optimum (4)"]];
    if (view === "loss") kinds.push(["least", "smallest loss"]);
    const scale = [0, 0.5, 1].flatMap((share) => {
      const y = 250 - 220 * share, label = text({ x: 28, y: y + 4, "text-anchor": "end" });
      label.textContent = share;
      return [svg("path", { d: `M34 ${y}H314`, class: "dpo-rule" }), label];
    });
    const group = svg("g");
    const drawing = frame(...scale, group);
    const draw = ({ names }, world) => {
      const policies = [world.logRef, world.logPolicy];
      if (leastPolicy(world) && view === "loss") policies.push(world.fit.logPolicy);
      const wide = 280 / names.length, bar = (0.8 * wide) / policies.length;
      group.replaceChildren(...names.flatMap((name, i) => {
        const label = text({ x: 34 + wide * (i + 0.5), y: 270, "text-anchor": "middle" });
        label.textContent = brief(name, Math.floor(wide / 7));
        return [label, ...policies.map((policy, k) => {
          const height = 220 * Math.exp(policy[i]);
          return svg("rect", { class: `dpo-${kinds[k][0]}`, x: 34 + wide * (i + 0.1) + bar * k,
            y: 250 - height, width: 0.92 * bar, height });
        })];
      }));
    };
    const key = kinds.map(([kind, words]) => [kind, "square", words]);
    return { element: figure(drawing, key), draw };
  };

  // Rewards left, implicit rewards right: one shift for all, so the distances stay.
  const ladder = () => {
    const heads = [90, 230].map((x, k) => {
      const label = text({ x, y: 16, "text-anchor": "middle" });
      label.textContent = ["reward", "implicit reward"][k];
      return label;
    });
    const rungs = svg("g");
    const rails = svg("path", { d: "M90 28V280M230 28V280", class: "dpo-rule" });
    const draw = ({ names, reward }, { implicit }) => {
      const seen = [...reward, ...implicit].filter(Number.isFinite);
      const low = Math.min(...seen), span = Math.max(...seen) - low || 1;
      const y = (value) => 268 - (228 * (value - low)) / span;
      rungs.replaceChildren(...names.flatMap((name, i) => {
        const label = text({ x: 80, y: y(reward[i]) + 4, "text-anchor": "end" });
        label.textContent = brief(name, 11);
        const left = point("optimum", "circle"), right = point("least", "diamond");
        move(left, [90, y(reward[i])]);
        if (!Number.isFinite(implicit[i])) return [label, left];
        move(right, [230, y(implicit[i])]);
        const ends = [[90, y(reward[i])], [230, y(implicit[i])]];
        return [svg("path", { d: line(ends), class: "dpo-rule" }), label, left, right];
      }));
    };
    const key = [["optimum", "circle", "reward r"], ["least", "diamond", "β log(π / reference)"]];
    return { element: figure(frame(rails, rungs, ...heads), key), draw };
  };

  // A class of rewards is two differences; a fibre is all that one number adds to a class.
  const differences = (reward) => [reward[0] - reward[2], reward[1] - reward[2]];
  const mean = (reward) => sum(reward) / reward.length;

  const rangeOf = (reward) => {
    const farthest = Math.max(...[...differences(reward), mean(reward)].map(Math.abs));
    return 4 * 2 ** Math.max(0, Math.ceil(Math.log2(farthest / 4)));
  };

  // Lines of the square grid of classes, in two directions.
  const gridLines = (range) => {
    const steps = Array.from({ length: 9 }, (_, k) => range * (k / 4 - 1));
    const along = Array.from({ length: 17 }, (_, k) => range * (k / 8 - 1));
    return [steps.map((u) => along.map((v) => [u, v])), steps.map((v) => along.map((u) => [u, v]))];
  };

  const fibre = () => {
    const sheet = [svg("path", { class: "dpo-first" }), svg("path", { class: "dpo-second" })];
    const floor = svg("path", { class: "dpo-floor" }), thread = svg("path", { class: "dpo-rule" });
    const shift = svg("path", { class: "dpo-optimum dpo-open" });
    const here = point("optimum", "circle"), member = point("least", "diamond");
    const axes = document.createElement("span");
    const draw = ({ reward, beta, names }, { logRef, logZ }) => {
      const range = rangeOf(reward), unit = 72 / range;
      const place = ([u, v], height) =>
        [160 + 0.97 * (u + v) * unit, 148 + 0.6 * (u - v) * unit - height * unit];
      const onSheet = ([u, v]) =>
        place([u, v], (u + v) / 3 - beta * optimum([u, v, 0], logRef, beta).logZ);
      gridLines(range).forEach((lines, k) =>
        sheet[k].setAttribute("d", lines.map((points) => line(points.map(onSheet))).join("")));
      const ends = [[-1, -1], [-1, 1], [1, 1], [1, -1]].map(([u, v]) => [u * range, v * range]);
      floor.setAttribute("d", `${line(ends.map((end) => place(end, 0)))}Z`);
      const own = differences(reward), height = mean(reward), its = height - beta * logZ;
      thread.setAttribute("d", line([place(own, -range), place(own, range)]));
      shift.setAttribute("d", line([place(own, height), place(own, its)]));
      move(here, place(own, height));
      move(member, place(own, its));
      const [first, second, third] = names.map((name) => brief(name, 9));
      axes.textContent = `↘ ${first} − ${third}  ↗ ${second} − ${third}`;
    };
    const key = [["optimum", "circle", "reward r"], ["least", "diamond", "f(r), (8)"],
      ["rule", "line", "fibre"], ["first", "line", "Z = 1"], ["floor", "line", "mean 0"]];
    const element = figure(frame(floor, ...sheet, thread, shift, member, here), key);
    element.lastChild.append(axes);
    return { element, draw };
  };

  const shown = {
    optimum: (size) => (size === 3 ? [triangle("optimum"), bars("optimum")] : [bars("optimum")]),
    preferences: () => [ladder(), bars("preferences")],
    loss: (size) => (size === 3 ? [triangle("loss"), bars("loss")] : [bars("loss")]),
    fibre: () => [fibre(), triangle("fibre")],
  };
  return { of: (view, size) => shown[view](size) };
})();
