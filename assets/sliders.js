// Sliders, radio buttons and lists over pictures drawn beforehand (dpo_lib/page/sliders.py).
(() => {
  const PACE = 500; // ms from picture to picture while a slider plays
  const QUIET = 250; // ms without a move before the address is written: browsers limit how often
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // "1,000" and "0,3" are written by people who mean 1000 and 0.3.
  const number = (text) => {
    const plain = text.trim().replace("−", "-").replace(/,(?=\d{3}\b)/g, "").replace(",", ".");
    return plain === "" ? NaN : Number(plain);
  };

  // The position of the value nearest to a text, or -1 if it says none.
  const nearest = (values, text) => {
    const wanted = number(text);
    if (values.includes(text) || Number.isNaN(wanted)) return values.indexOf(text);
    const away = values.map((value) => Math.abs(Number(value) - wanted));
    return away.indexOf(Math.min(...away)); // not found among names: all away is NaN
  };

  // One control of any kind: where it stands, and how it takes a position.
  const control = (element, label, values) => {
    const range = element.querySelector("input[type=range]");
    const list = element.querySelector("select");
    const radios = [...element.querySelectorAll("input[type=radio]")];
    const field = element.querySelector(".dpo-value");
    const play = element.querySelector(".dpo-play");
    const at = () => {
      if (range) return Number(range.value);
      return list ? list.selectedIndex : radios.findIndex((radio) => radio.checked);
    };
    const to = (position) => {
      if (range) range.value = position;
      else if (list) list.selectedIndex = position;
      else radios[position].checked = true;
    };
    const value = () => values[at()];
    const show = () => {
      if (!range) return;
      field.value = value();
      range.setAttribute("aria-valuetext", `${label} = ${value()}`);
    };
    // Takes the nearest position, and says what could not be taken as it was asked for.
    const take = (text) => {
      const position = nearest(values, text);
      if (position < 0) return `“${text}” is no value of ${label}. `;
      to(position);
      const exact = value() === text || Number(value()) === number(text);
      return exact ? "" : `${text} is not drawn; this is ${value()}. `;
    };
    const name = element.dataset.name;
    return { name, label, values, range, field, play, at, to, value, show, take };
  };

  let walk = null; // the slider that plays: one at a time

  const pause = () => {
    clearInterval(walk?.timer);
    walk?.tell(false);
    walk = null;
  };

  // Step by step to the last position, from the first one if it stands at the last.
  const walkThrough = (part, sentence, moved) => {
    const last = part.values.length - 1;
    const tell = (on) => {
      part.play.textContent = on ? "Pause" : "Play";
      part.play.setAttribute("aria-label", `${part.play.textContent} ${part.label}`);
      sentence.setAttribute("aria-live", on ? "off" : "polite"); // twice a second is no sentence
    };
    const step = () => {
      part.to(part.at() + 1);
      if (part.at() === last) pause();
      moved();
    };
    tell(false);
    part.play.addEventListener("click", () => {
      const mine = walk?.part === part;
      pause();
      if (mine) return;
      if (part.at() === last) {
        part.to(0);
        moved();
      }
      tell(true);
      walk = { part, tell, timer: setInterval(step, PACE) };
    });
  };

  const start = (root) => {
    const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    const frame = root.querySelector(".dpo-frame");
    const sentence = root.querySelector(".dpo-sentence");
    const figure = root.querySelector(".dpo-number")?.id ?? "";
    const parts = [...root.querySelectorAll(".dpo-control")].map((element, k) =>
      control(element, data.labels[k], data.values[k]));
    let shown = null;
    let waiting;

    const draw = (note = "") => {
      const position = parts.reduce((sum, part) => sum * part.values.length + part.at(), 0);
      parts.forEach((part) => part.show());
      sentence.textContent = note + data.sentences[position];
      if (position === shown) return;
      shown = position;
      frame.innerHTML = data.frames[position];
      window.dpoPanels.fit(frame);
    };
    const address = () =>
      window.dpoAddress.write(figure, Object.fromEntries(parts.map((p) => [p.name, p.value()])));
    const moved = (note) => {
      draw(note);
      clearTimeout(waiting);
      waiting = setTimeout(address, QUIET);
    };
    const set = ({ id, values }) => {
      const wanted = parts.filter((part) => part.name in values);
      if ((id && id !== figure) || wanted.length === 0) return false;
      draw(wanted.map((part) => part.take(values[part.name])).join(""));
      return true;
    };

    root.addEventListener("input", (event) => event.target.matches(".dpo-value") || moved());
    parts.filter((part) => part.range).forEach((part) => {
      part.field.addEventListener("change", () => moved(part.take(part.field.value)));
      walkThrough(part, sentence, moved);
    });
    addEventListener("pageshow", () => draw()); // what a browser brings back of an earlier visit
    draw();
    return { frame, set };
  };

  const buttons = () =>
    document.querySelectorAll(".dpo-play").forEach((button) => { button.hidden = still.matches; });

  addEventListener("DOMContentLoaded", () => {
    const sliders = [...document.querySelectorAll(".dpo-slider")].map(start);
    buttons();
    still.addEventListener("change", () => { pause(); buttons(); });
    // Its own button pauses by its click; anything else that is touched, at once.
    const own = (event) =>
      event.target === walk?.part.play && ["Enter", " ", undefined].includes(event.key);
    ["pointerdown", "keydown"].forEach((type) =>
      addEventListener(type, (event) => own(event) || pause(), true));
    window.dpoAddress.follow((state) => {
      pause();
      return sliders.filter((slider) => slider.set(state)).map((slider) => slider.frame);
    });
  });
})();
