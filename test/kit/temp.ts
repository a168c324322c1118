import { rmSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

const removal = { recursive: true, force: true, maxRetries: 3 } as const
const folders = new Set<string>()
process.once('exit', () => {
  for (const folder of folders) rmSync(folder, removal)
})

/**
 * Makes an empty folder that is removed, with everything in it, when the test is over. Hooks run in the order in which
 * they were given, so what the test starts in it may be stopped only after that: what it writes meanwhile goes with the
 * process, and keeps no other hook from running.
 */
export async function tempFolder(test: Pick<TestContext, 'after'>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'outport-test-'))
  folders.add(folder)
  test.after(() =>
    rm(folder, removal).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY') throw error
    }),
  )
  return folder
}
