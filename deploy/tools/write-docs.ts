import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { configReference } from '../../shared/config/reference.ts'
import { sections } from '../programs.ts'

// Writes the generated parts of the documentation; test/docs.test.ts fails when one is out of date.

const path = join(import.meta.dirname, '../../docs/configuration.md')
const text = readFileSync(path, 'utf8')
const [before = ''] = text.split('<!-- reference -->')
writeFileSync(
  path,
  `${before}<!-- reference -->\n${configReference(sections)}\n<!-- /reference -->\n`,
)
