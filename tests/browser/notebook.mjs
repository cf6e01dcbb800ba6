// A notebook in a running JupyterLab, opened as a reader does.
import { chromium } from "playwright-core";

const wait = (ms) => new Promise((resume) => setTimeout(resume, ms));

export const launch = (executablePath) => chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"],
});

// The page, its notebook, and what can be done with them. The kernel is ready when this returns.
export const open = async (browser, url) => {
  const page = await browser.newPage({ viewport: { width: 1280, height: 1600 } });
  await page.goto(url);
  const notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)");
  await notebook.locator(".jp-CodeCell").first().waitFor({ timeout: 120_000 });
  for (const button of await page.getByRole("button", { name: /^(No|Close|Dismiss)$/ }).all()) {
    await button.click().catch(() => {});  // the question about Jupyter's news
  }

  // What the notebook holds is read from its model: cells outside the window are not in the page.
  const state = () => page.evaluate(() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    const cells = [...(panel?.content?.model?.cells ?? [])].filter((cell) => cell.type === "code");
    const outputs = cells.flatMap((cell) => cell.toJSON().outputs);
    const kernel = panel?.sessionContext?.session?.kernel?.status;
    return {
      cells: cells.length,
      executed: cells.filter((cell) => cell.executionCount !== null).length,
      // A `?` that fails and a panic reach Jupyter as lines of stderr, not as an error.
      errors: outputs.filter((o) => o.output_type === "error" || o.name === "stderr").map((o) => o.evalue ?? o.text),
      pictures: outputs.filter((o) => Object.keys(o.data ?? {}).some((mime) => mime.startsWith("image/"))).length,
      kernel,
    };
  });
  const until = async (condition, minutes) => {
    for (const end = Date.now() + minutes * 60_000; Date.now() < end; await wait(250)) {
      const now = await state();
      if (condition(now) || now.errors.length) return now;
    }
    throw new Error(`still waiting after ${minutes} minutes: ${JSON.stringify(await state())}`);
  };
  const command = (name, options) => page.evaluate(
    ([name, options]) => window.jupyterapp.commands.execute(name, options), [name, options]);
  const theme = (name) => command("apputils:change-theme", { theme: `JupyterLab ${name}` });

  await until((now) => now.cells > 0 && now.kernel === "idle", 5);
  return { page, notebook, state, until, command, theme };
};
