import { after } from 'node:test'

const ends: (() => unknown)[] = []
// At the top, so that it is the file's own hook, and runs when all its tests are over.
after(endFile)

/** Has something done after the last test of this file. What must end before what a module ends itself is imported first. */
export function atEnd(end: () => unknown): void {
  ends.push(end)
}

/** For files that share a process: the module's own hook is that of the first. */
export async function endFile(): Promise<void> {
  for (const end of ends.splice(0).toReversed()) await end()
}
