// What the programs of Node share: report.py's arguments, and its lines of JSON.
import { readFileSync } from "node:fs";

export const report = JSON.parse(process.argv[2]);

const say = (line) => console.log(JSON.stringify(line));

export function version(name) {
  const file = new URL(`node_modules/${name}/package.json`, import.meta.url);
  say({ version: JSON.parse(readFileSync(file)).version });
}

export async function ask(asked, call) {
  let error = "";
  try {
    const text = await call();
    if (!text.includes(report.expected))
      error = `'${text.slice(0, 80)}' does not hold '${report.expected}'`;
  } catch (raised) {
    error = `${raised.name}: ${raised.message}`.split("\n")[0];
  }
  say({ asked, error });
}

export function equal(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted))
    throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(wanted)}`);
}
