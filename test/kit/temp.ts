import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

/** Makes an empty folder that is removed, with everything in it, when the test is over. */
export async function tempFolder(test: Pick<TestContext, 'after'>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'outport-test-'))
  test.after(() => rm(folder, { recursive: true, force: true, maxRetries: 3 }))
  return folder
}
