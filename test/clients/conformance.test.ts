import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { startTestPrimary } from '../kit/primary.ts'
import { run } from './process.ts'
import { requireTool } from './tools.ts'

// The official conformance suite against a primary; its cases are tests of our own in test/conformance/.
// A configuration error of the suite exits with 0, so the result line and the counts are what is read.

/** How many cases passed, failed, were skipped and were disabled. */
type Counts = Readonly<Record<string, number>>

interface Suite {
  readonly project: string
  readonly isPublic: boolean
  readonly env: Readonly<Record<string, string>>
  readonly sparse?: boolean
}

/** What 1.1 leaves open, what the suite therefore asks for from the dev version on only, and what we do anyway. */
const optionalAt11 = {
  OCI_API_BLOBS_UPLOAD_CANCEL: 'true',
  OCI_API_MANIFESTS_TAG_PARAM: 'true',
  OCI_API_MANIFESTS_DIGEST_HEADER: 'true',
  OCI_API_BLOBS_DIGEST_HEADER: 'true',
}

const suites: readonly (Suite & { readonly name: string; readonly passes: number })[] = [
  {
    name: 'version 1.1, private project',
    project: 'conformance',
    isPublic: false,
    env: { OCI_VERSION: '1.1', ...optionalAt11 },
    passes: 980,
  },
  {
    name: 'version dev, public project',
    project: 'conformance-dev',
    isPublic: true,
    env: { OCI_VERSION: 'dev' },
    passes: 980,
  },
  {
    name: 'version dev with sparse manifests, private project',
    project: 'conformance-sparse',
    isPublic: false,
    env: { OCI_VERSION: 'dev', OCI_DATA_SPARSE: 'true' },
    passes: 1030,
    sparse: true,
  },
]

for (const { name, passes, ...suite } of suites) {
  test(`the official suite passes: ${name}`, async (t) => {
    const program = requireTool(t, 'conformance')
    if (program === undefined) return
    const counts = await runSuite(t, program, suite)
    assert.equal(counts['FAIL'], 0)
    assert.equal(counts['Error'], 0)
    assert.equal(counts['Skip'], 0)
    assert.equal(counts['Disabled'], 0)
    assert.ok((counts['Pass'] ?? 0) >= passes, `${counts['Pass']} passed`)
  })
}

async function runSuite(t: TestContext, program: string, suite: Suite): Promise<Counts> {
  const primary = await startTestPrimary({
    primary: { sparse_manifests: suite.sparse ?? false },
  })
  await primary.createProject(suite.project, { isPublic: suite.isPublic })
  const results = await mkdtemp(join(tmpdir(), 'outport-conformance-'))
  t.after(() => rm(results, { recursive: true, force: true }))
  const { stdout, stderr } = await run(program, [], {
    env: {
      ...suite.env,
      OCI_REGISTRY: primary.url.host,
      OCI_TLS: 'disabled',
      OCI_REPO1: `${suite.project}/repo1`,
      OCI_REPO2: `${suite.project}/repo2`,
      OCI_USERNAME: primary.admin.username,
      OCI_PASSWORD: primary.admin.password,
      OCI_RESULTS_DIR: results,
      OCI_LOG: 'error',
    },
    cwd: results,
    timeoutMs: 300_000,
  })
  await primary.stop()
  assert.match(stdout, /^OCI Conformance Result: Pass$/m, stdout.slice(-4000) + stderr)
  return countsOf(stdout)
}

/** Reads the lines `  Pass....: 860` behind the result. */
function countsOf(stdout: string): Counts {
  const lines = stdout
    .slice(stdout.indexOf('OCI Conformance Result:'))
    .matchAll(/^ {2}(\w+)\.+: +(\d+)$/gm)
  return Object.fromEntries([...lines].map(([, name = '', count]) => [name, Number(count)]))
}
