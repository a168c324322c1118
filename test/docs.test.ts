import assert from 'node:assert/strict'
import { existsSync, globSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { sections } from '../deploy/programs.ts'
import { configReference } from '../shared/config/reference.ts'

const root = join(import.meta.dirname, '..')

test('the configuration reference says what the schema says (else: npm run docs)', async () => {
  const text = await readFile(join(root, 'docs/configuration.md'), 'utf8')
  const [, generated] = /<!-- reference -->\n([^]*)\n<!-- \/reference -->/.exec(text) ?? []
  assert.equal(generated, configReference(sections))
})

/** A document without what is only shown: code. */
async function readProse(path: string): Promise<string> {
  const text = await readFile(join(root, path), 'utf8')
  return text.replaceAll(/^```[^]*?^```$/gm, '').replaceAll(/`[^`\n]*`(?!\])/g, '')
}

/** The anchors of a document's headings, as GitHub names them. */
async function anchorsOf(path: string): Promise<ReadonlySet<string>> {
  const text = (await readFile(join(root, path), 'utf8')).replaceAll(/^```[^]*?^```$/gm, '')
  const anchors = new Set<string>()
  for (const [, heading = ''] of text.matchAll(/^#{1,6} (.+)$/gm)) {
    const words = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase()
    const anchor = words.replaceAll(/[^\p{L}\p{N}_ -]/gu, '').replaceAll(' ', '-')
    let [unique, count] = [anchor, 0]
    while (anchors.has(unique)) unique = `${anchor}-${++count}`
    anchors.add(unique)
  }
  return anchors
}

test('the links of the documents lead to files and headings that are there', async () => {
  const documents = [...globSync('*.md', { cwd: root }), ...globSync('docs/*.md', { cwd: root })]
  assert.ok(documents.includes('README.md') && documents.includes('docs/rules.md'))
  const broken: string[] = []
  for (const name of documents) {
    const links = (await readProse(name)).matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)/g)
    for (const [link, target = '', anchor] of links) {
      const file = target === '' ? name : join(dirname(name), target)
      const isThere =
        existsSync(join(root, file)) &&
        (anchor === undefined || (await anchorsOf(file)).has(anchor))
      if (!isThere) broken.push(`${name}: ${link.slice(1)}`)
    }
  }
  assert.deepEqual(broken, [])
})
