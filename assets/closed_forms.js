// The equations on one prompt with a few answers: the twin of dpo_lib, which a test holds it to.
// Everything stays in log space; an answer that the reference never gives has logarithm -Infinity.
window.dpoForms = (() => {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const table = (size, cell) =>
    Array.from({ length: size }, (_, i) => Array.from({ length: size }, (_, j) => cell(i, j)));
  const everyPair = (size, test) => table(size, test).flat().every(Boolean);
  const possible = (logp) => logp > -Infinity;

  const logSumExp = (values) => {
    const top = Math.max(...values);
    return top + Math.log(sum(values.map((value) => Math.exp(value - top))));
  };

  const logSigmoid = (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));
  const sigmoid = (x) => Math.exp(logSigmoid(x));

  const logOf = (weights) => {
    const total = sum(weights);
    return weights.map((weight) => Math.log(weight / total));
  };

  // (4). The maximum goes before the division: at a tiny beta r / beta would swallow log ref.
  const optimum = (reward, logRef, beta) => {
    const top = Math.max(...reward.filter((_, i) => possible(logRef[i])));
    const tilted = logRef.map((logp, i) => (possible(logp) ? logp + (reward[i] - top) / beta : logp));
    const total = logSumExp(tilted);
    return { logPolicy: tilted.map((weight) => weight - total), logZ: total + top / beta };
  };

  const expectedReward = (logPolicy, reward) =>
    sum(logPolicy.map((logp, i) => Math.exp(logp) * reward[i]));

  const kl = (logPolicy, logRef) =>
    sum(logPolicy.map((logp, i) => (possible(logp) ? Math.exp(logp) * (logp - logRef[i]) : 0)));

  // The part of (5) that depends on the answer.
  const implicitReward = (logPolicy, logRef, beta) =>
    logPolicy.map((logp, i) => (possible(logp) ? beta * (logp - logRef[i]) : -Infinity));

  // (1) for all pairs; with implicit rewards it is (6), which has no number for a -Infinity.
  const preferences = (reward) =>
    table(reward.length, (i, j) =>
      possible(reward[i]) && possible(reward[j]) ? sigmoid(reward[i] - reward[j]) : NaN);

  // (2), and with implicit rewards (7): mean over the labels, NaN if two -Infinity were compared.
  const loss = (reward, wins) => {
    const terms = table(reward.length, (i, j) =>
      wins[i][j] > 0 ? -wins[i][j] * logSigmoid(reward[i] - reward[j]) : 0);
    return sum(terms.flat()) / sum(wins.flat());
  };

  // Gauss with pivots, on a copy.
  const solve = (matrix, right) => {
    const rows = matrix.map((row, i) => [...row, right[i]]);
    const size = rows.length;
    for (let k = 0; k < size; k++) {
      let best = k;
      for (let i = k; i < size; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[best][k])) best = i;
      [rows[k], rows[best]] = [rows[best], rows[k]];
      for (let i = k + 1; i < size; i++) {
        const factor = rows[i][k] / rows[k][k];
        for (let j = k; j <= size; j++) rows[i][j] -= factor * rows[k][j];
      }
    }
    const found = Array(size).fill(0);
    for (let k = size - 1; k >= 0; k--) {
      const known = sum(found.map((value, j) => value * rows[k][j]));
      found[k] = (rows[k][size] - known) / rows[k][k];
    }
    return found;
  };

  // Whether a chain of wins leads from i to j.
  const chains = (wins) => {
    const reach = wins.map((row, i) => row.map((won, j) => i === j || won > 0));
    for (const k of reach.keys())
      for (const i of reach.keys())
        for (const j of reach.keys()) reach[i][j] ||= reach[i][k] && reach[k][j];
    return reach;
  };

  const newton = (wins, joined) => {
    const size = wins.length;
    let reward = Array(size).fill(0), value = loss(reward, wins);
    for (let step = 0; step < 100; step++) {
      const prob = preferences(reward);
      const games = table(size, (i, j) => wins[i][j] + wins[j][i]);
      const gradient = wins.map((row, i) => sum(row.map((won, j) => games[i][j] * prob[i][j] - won)));
      const bend = table(size, (i, j) => (i === j ? 0 : games[i][j] * prob[i][j] * prob[j][i]));
      // The ones fix the direction in which the loss is flat: the shift of a group's rewards.
      const hessian = table(size, (i, j) =>
        (i === j ? sum(bend[i]) : -bend[i][j]) + (joined(i, j) ? 1 / size : 0));
      const move = solve(hessian, gradient);
      if (sum(move.map((m, i) => m * gradient[i])) < 1e-28) break;
      for (let length = 1, halved = 0; halved < 40; length /= 2, halved++) {
        const trial = reward.map((r, i) => r - length * move[i]);
        const there = loss(trial, wins);
        if (there > value + 1e-15) continue;
        [reward, value] = [trial, there];
        break;
      }
    }
    return reward;
  };

  // The reward that minimises (2), and the least loss. A group that never lost to another can
  // rise above it for ever: the labels between them then add nothing to the limit.
  const fit = (wins) => {
    const size = wins.length, labels = sum(wins.flat()), reach = chains(wins);
    const joined = (i, j) => reach[i][j] && reach[j][i];
    const inner = table(size, (i, j) => (joined(i, j) ? wins[i][j] / labels : 0));
    const share = sum(inner.flat());
    const reward = share > 0 ? newton(inner, joined) : Array(size).fill(0);
    return {
      reward,
      loss: share > 0 ? loss(reward, inner) * share : 0,
      attained: everyPair(size, (i, j) => !(wins[i][j] > 0) || reach[j][i]),
      determined: everyPair(size, joined),
      reach,
    };
  };

  // Every number that the workbench shows. ref: weights, which need not sum to one.
  const world = ({ reward, ref, beta, wins }) => {
    const logRef = logOf(ref);
    const { logPolicy, logZ } = optimum(reward, logRef, beta);
    const implicit = implicitReward(logPolicy, logRef, beta);
    const expected = expectedReward(logPolicy, reward), divergence = kl(logPolicy, logRef);
    const found = {
      logRef, logPolicy, logZ, implicit, expected, kl: divergence,
      shift: reward.map((r, i) => (possible(implicit[i]) ? r - implicit[i] : NaN)),
      objective: expected - beta * divergence,
      preferences: preferences(reward),
      policyPreferences: preferences(implicit),
    };
    if (wins && sum(wins.flat()) > 0) {
      found.loss = loss(implicit, wins);
      found.fit = fit(wins);
      found.fit.logPolicy = optimum(found.fit.reward, logRef, beta).logPolicy;
    }
    return found;
  };

  return { sum, table, sigmoid, logOf, optimum, loss, fit, world };
})();
