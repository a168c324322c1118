import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { sections } from '../deploy/programs.ts'
import { configReference } from '../shared/config/reference.ts'

const root = join(import.meta.dirname, '..')

test('the configuration reference says what the schema says (else: npm run docs)', async () => {
  const text = await readFile(join(root, 'docs/configuration.md'), 'utf8')
  const [, generated] = /<!-- reference -->\n([^]*)\n<!-- \/reference -->/.exec(text) ?? []
  assert.equal(generated, configReference(sections))
})

test('the links of the documents lead to files that are there', async () => {
  for (const name of [
    'README.md',
    'ARCHITECTURE.md',
    'CONTRIBUTING.md',
    'docs/away.md',
    'docs/configuration.md',
    'docs/consul.md',
    'docs/edges.md',
    'docs/freshness.md',
    'docs/keys.md',
    'docs/lost-edge.md',
    'docs/network.md',
  ]) {
    const text = await readFile(join(root, name), 'utf8')
    for (const [, target = ''] of text.matchAll(/\]\((?!https?:|#)([^)#]+)\)/g)) {
      await readFile(join(root, name, '..', target))
    }
  }
})
