// What the workbench says: numbers, sentences and tables as dpo_lib.page.workbench writes them,
// what is wrong with an input, and the world as lines of Python.
window.dpoWords = (() => {
  const { sum } = window.dpoForms;
  const minus = (text) => text.replace(/-/g, "−");

  const shown = (value) => {
    if (Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    if (value === 0) return "0.000"; // not -0.000
    const plain = Math.abs(value) >= 5e-4 && Math.abs(value) < 1e6;
    return minus(plain ? value.toFixed(3) : value.toExponential(2).replace("+", ""));
  };
  const shownExp = (log) => (Math.abs(log) < 700 ? shown(Math.exp(log)) : `e^${shown(log)}`);
  const short = (value) => minus(String(Number(value.toPrecision(4))));
  const shares = (names, logs) =>
    names.map((name, i) => `${name} ${shown(Math.exp(logs[i]))}`).join(", ");

  const optimum = ({ beta, names }, world) =>
    `At β = ${short(beta)} the best policy gives ${shares(names, world.logPolicy)}: expected reward ` +
    `${shown(world.expected)}, KL ${shown(world.kl)} nats, so the objective is ` +
    `${shown(world.objective)} = β log Z.`;

  const preferences = ({ beta, names }, world) => {
    const said = `By the rewards ${names[0]} is preferred to ${names[1]} with probability ` +
      shown(world.preferences[0][1]);
    const never = [0, 1].find((i) => !Number.isFinite(world.implicit[i]));
    if (never !== undefined)
      return `${said}; by policies there is no number: the reference never gives ${names[never]}.`;
    return `${said}, by reference and best policy with ${shown(world.policyPreferences[0][1])}: ` +
      `β log Z = ${shown(beta * world.logZ)} is missing from every implicit reward, and differences ` +
      "do not see it.";
  };

  const loss = ({ names, wins }, { logRef, logPolicy, loss: here, fit }) => {
    if (!fit) return "There are no labels yet: type how often one answer won.";
    const never = names.find((_, i) =>
      logRef[i] === -Infinity && names.some((_, j) => wins[i][j] + wins[j][i] > 0));
    if (never)
      return `There is no loss: the labels compare ${never}, which the reference never gives, so ` +
        "its implicit reward does not exist.";
    const said = `On these labels the best policy's DPO loss is ${shown(here)}`;
    const least = shown(fit.loss);
    if (fit.attained && fit.determined)
      return `${said}; the smallest of any policy is ${least}, at ${shares(names, fit.logPolicy)}.`;
    const pair = (test) => names.flatMap((first, i) =>
      names.flatMap((second, j) => (test(i, j) ? [[first, second]] : [])))[0];
    if (!fit.attained) {
      const [winner, loser] = pair((i, j) => wins[i][j] > 0 && !fit.reach[j][i]);
      return `${said}; no policy has the smallest: no chain of wins leads from ${loser} back to ` +
        `${winner}, so the loss falls for ever towards ${least} as ${winner} rises above ${loser}.`;
    }
    const [first, second] = pair((i, j) => !fit.reach[i][j]);
    return `${said}; the smallest is ${least}, and many policies have it, for no label links ` +
      `${first} to ${second}.`;
  };

  const fibre = ({ beta, names, reward }, { logZ, logPolicy }) => {
    const shift = beta * logZ;
    return `The reward (${reward.map(shown).join(", ")}) is ` +
      `(${reward.map((r) => shown(r - shift)).join(", ")}), the member of its fibre with Z = 1, plus ` +
      `β log Z = ${shown(shift)}. Its policy gives ${shares(names, logPolicy)}.`;
  };

  // One clear line on what is no world; "" if all is well.
  const problem = ({ names, reward, ref, beta, wins }) => {
    const size = reward.length, within = (low, high) => (x) => x >= low && x <= high;
    if (size < 2 || size > 6) return `A world has 2 to 6 answers, not ${size}.`;
    if (names.length !== size || ref.length !== size)
      return `Rewards, reference and names must be of one length, not ${size}, ${ref.length} and ` +
        `${names.length}.`;
    if (!reward.every(within(-1e9, 1e9))) return "Each reward must be a number, at most a billion.";
    if (!ref.every(within(0, 1e9)) || !(sum(ref) > 0))
      return "Each reference probability must be at least 0, and one of them more.";
    if (!within(1e-6, 1e6)(beta)) return "β must be a number between 0.000001 and 1,000,000.";
    const square = wins?.length === size && wins.every((row) => row.length === size);
    if (wins && !(square && wins.flat().every(within(0, 1e9))))
      return `Wins must be ${size} by ${size} counts, at least 0.`;
    return "";
  };

  const list = (values) => `[${values.join(", ")}]`;
  const tensor = (rows) => `torch.tensor([${rows}], dtype=torch.float64)`;

  const python = ({ reward, ref, beta, wins }, { fit }) => {
    const lines = [
      "import torch",
      "from dpo_lib import expected_reward, kl_divergence, log_partition, optimal_log_policy",
      "",
      `reward, beta = ${tensor(list(reward))}, ${beta}`,
      `log_ref = ${tensor(list(ref))}.log().log_softmax(-1)`,
      "policy, log_z = optimal_log_policy(reward, log_ref, beta), log_partition(reward, log_ref, beta)",
      "print(policy.exp().tolist(), log_z.item(), beta * log_z.item())",
      "print(expected_reward(policy, reward).item(), kl_divergence(policy, log_ref).item())",
    ];
    if (!fit?.attained || !fit.determined || !fit.logPolicy.every(Number.isFinite))
      return lines.join("\n");
    return [...lines, "",
      "from dpo_lib import fit_reward, implicit_reward",
      "from dpo_lib.losses import table_loss",
      "",
      `wins = ${tensor(list(wins.map(list)))}`,
      "print(table_loss(implicit_reward(policy, log_ref, beta), wins).item())",
      "fitted = fit_reward(wins)",
      "print(table_loss(fitted, wins).item())",
      "print(optimal_log_policy(fitted, log_ref, beta).exp().tolist())",
    ].join("\n");
  };

  return { shown, shownExp, short, problem, python,
    sentence: { optimum, preferences, loss, fibre } };
})();
