// What the reader has answered, in this browser and nowhere else: name -> { said, state, tries }.
// Each change is told by the event "dpo-answers".
window.dpoAnswers = (() => {
  const KEY = "dpo-answers";
  let memory = null; // where storage is refused, until the page is left
  const tell = () => dispatchEvent(new Event("dpo-answers"));

  const read = () => {
    if (memory) return memory;
    try {
      return JSON.parse(localStorage.getItem(KEY)) || {};
    } catch {
      return {};
    }
  };
  const keep = (answers) => {
    try {
      localStorage.setItem(KEY, JSON.stringify(answers));
      memory = null;
    } catch {
      memory = answers;
    }
    tell();
  };

  addEventListener("storage", (event) => event.key === KEY && tell()); // another tab
  return {
    get: (name) => read()[name] ?? {},
    put: (name, answer) => keep({ ...read(), [name]: answer }),
    erase: () => keep({}),
  };
})();
