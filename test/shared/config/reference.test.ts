import assert from 'node:assert/strict'
import { test } from 'node:test'
import { configReference } from '../../../shared/config/reference.ts'
import { edgeSection } from '../../../edge/config.ts'
import { primarySection } from '../../../primary/config.ts'

const reference = configReference([primarySection, edgeSection])
const rows = reference.split('\n').filter((line) => line.startsWith('| `'))

test('the reference has a row for every option: name, variable, default, meaning', () => {
  const cells = (option: string) =>
    rows
      .find((row) => row.startsWith(`| \`${option}\` `))
      ?.split(' | ')
      .map((cell) => cell.replace(/^\| | \|$/g, ''))
  assert.deepEqual(cells('log.level'), [
    '`log.level`',
    '`OUTPORT_LOG__LEVEL`',
    '`info`',
    'The least important line that is logged. One of `debug`, `info`, `warn`, `error`.',
  ])
  assert.equal(cells('primary.timeouts.idle')?.[2], '`60s`')
  assert.equal(cells('edge.listeners[].tls.cert')?.[1], '`OUTPORT_EDGE__LISTENERS__N__TLS__CERT`')
  assert.equal(cells('edge.listeners[].name')?.[2], '**required**')
  assert.equal(cells('edge.listeners[].tls.cert')?.[2], '**required** with `tls`')
  assert.equal(cells('edge.id')?.[2], '')
  assert.match(cells('edge.listeners[]')?.[2] ?? '', /`\{name: edge, port: 8081, .*8082/)
  assert.equal(cells('primary.listeners[]')?.[2], 'one with its defaults')
  assert.match(cells('primary.admin_password')?.[3] ?? '', /Secret\.$/)
})

test('every row has a meaning, and no cell breaks the table', () => {
  assert.ok(rows.length > 80, `${rows.length} rows`)
  for (const row of rows) {
    assert.equal(row.split(/(?<!\\)\|/).length, 6, row)
    assert.doesNotMatch(row, /\| {2}\|$/, row)
  }
})
