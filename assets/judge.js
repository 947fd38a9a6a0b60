// What an answer is worth, by the kind of its question: [verdict, why]. The verdict is null if this is
// no attempt yet; whatever is said beyond it comes from the question's data.
window.dpoJudge = (() => {
  const close = (value, right, width) => Math.abs(value - right) <= width;

  const number = (said, { answer, tolerance, slips }) => {
    const value = dpoNumber(said);
    if (Number.isNaN(value)) {
      return [null, "This is not understood as a number. Examples: 0.53, 53%, 1/3, ln(4)/2."];
    }
    const read = Number(said) === value ? "" : ` (Read as ${Number(value.toPrecision(6))}.)`;
    if (close(value, answer, tolerance)) return ["right", read];
    const slip = slips.find(([known, width]) => close(value, known, width));
    return slip ? ["nearly", `${slip[2]}.${read}`] : ["not yet", read];
  };

  const choice = (said, { answer, slips }) => {
    if (said === answer) return ["right", ""];
    return slips[said] ? ["nearly", `${slips[said]}.`] : ["not yet", ""];
  };

  const order = (said, { steps, answer, slips }) => {
    const kept = said.filter((step) => !slips[step]);
    const off = [...answer.keys()].filter((place) => kept[place] !== answer[place]);
    const wrong = said.find((step) => slips[step]);
    if (wrong !== undefined) {
      const why = `“${steps[wrong]}” belongs nowhere: ${slips[wrong]}.`;
      return [off.length ? "not yet" : "nearly", why];
    }
    if (said.length < answer.length) {
      return [null, `Steps still to place: ${answer.length - said.length}.`];
    }
    if (!off.length) return ["right", ""];
    const [first, second] = off;
    if (off.length === 2 && kept[first] === answer[second]) {
      return ["nearly", `steps ${first + 1} and ${second + 1} are exchanged.`];
    }
    return ["not yet", `Step ${first + 1} is the first that is out of place.`];
  };

  const blanks = (said, { answer, slips }) => {
    const wrong = [...answer.keys()].filter((gap) => said[gap] !== answer[gap]);
    if (!wrong.length) return ["right", ""];
    const why = (gap) => slips[`${gap}/${said[gap]}`];
    const gap = wrong.find(why) ?? wrong[0];
    const right = `Gaps that are right: ${answer.length - wrong.length} of ${answer.length}.`;
    const verdict = wrong.length === 1 ? "nearly" : "not yet";
    return [verdict, `Gap ${gap + 1}: ${why(gap) ?? "this is not what stands there"}. ${right}`];
  };

  const predictNumber = (said, { low, high }) => {
    const value = dpoNumber(said);
    if (Number.isNaN(value)) return [null, "This is not understood as a number."];
    const inside = value >= (low ?? -Infinity) && value <= (high ?? Infinity);
    return inside ? ["made", ""] : [null, `It must lie between ${low} and ${high}.`];
  };

  return {
    number, choice, order, blanks,
    "predict-number": predictNumber,
    "predict-choice": () => ["made", ""],
  };
})();
