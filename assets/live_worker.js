// Python beside a page: loaded by the first message, then one cell after another.
let attempt;

const load = async ({ live, packages }) => {
  const fetched = packages.map(async (name) => {
    const reply = await fetch(live + name);
    if (!reply.ok) throw new Error(`${name} is missing`);
    return [name, await reply.arrayBuffer()];
  });
  const { loadPyodide } = await import(`${live}pyodide.mjs`);
  const python = await loadPyodide({ indexURL: live });
  const folder = python.runPython("import site; site.getsitepackages()[0]");
  for (const [name, bytes] of await Promise.all(fetched))
    python.unpackArchive(bytes, name.endsWith(".whl") ? "wheel" : "zip", { extractDir: folder });
  ({ attempt } = python.pyimport("dpo_lib.statements.trying"));
  return {};
};

const run = ({ setup, source }) => {
  const verdict = attempt(setup, source);
  const { word, sentence, printed } = verdict;
  verdict.destroy();
  return { word, sentence, printed };
};

self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ id: data.id, ...(await (data.packages ? load(data) : run(data))) });
  } catch (error) {
    self.postMessage({ id: data.id, failed: `Python did not run: ${error.message}` });
  }
};
