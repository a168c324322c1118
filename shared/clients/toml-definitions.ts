import { ClientFileError } from './file-error.ts'
import type { TomlPair, TomlStatement, TomlTable } from './toml-statements.ts'

/** A name of the document: `implicit` is a table that only stands in the path of another, `dotted` in a key. */
interface Definition {
  kind: 'table' | 'array' | 'implicit' | 'dotted' | 'value'
  members: Map<string, Definition>
}

function define(kind: Definition['kind']): Definition {
  return { kind, members: new Map() }
}

/**
 * Checks that no table and no key is defined twice; what stands in inline tables is not looked at.
 * @throws ClientFileError that names the line [TOML 1.0, Table]
 */
export function checkDefinitions(statements: readonly TomlStatement[]): void {
  const root = define('table')
  let current = root
  for (const statement of statements) {
    if (statement.kind === 'table') current = defineTable(root, statement)
    if (statement.kind === 'pair') definePair(current, statement)
  }
}

function defineTable(root: Definition, { path, isArray, line }: TomlTable): Definition {
  const refuse = (): never => {
    throw new ClientFileError(`line ${line} defines ${path.join('.')} a second time`)
  }
  const parents = path.slice(0, -1)
  const parent = parents.reduce((table, name) => memberOf(table, name, 'implicit'), root)
  const table = memberOf(parent, path.at(-1) ?? '', isArray ? 'array' : 'implicit')
  if (parent.kind === 'value' || table.kind === 'value') return refuse()
  if (isArray) {
    if (table.kind !== 'array') return refuse()
    table.members = new Map() // of its next element
  } else {
    if (table.kind !== 'implicit') return refuse()
    table.kind = 'table'
  }
  return table
}

function definePair(table: Definition, { key, line }: TomlPair): void {
  const refuse = (): never => {
    throw new ClientFileError(`line ${line} defines ${key.join('.')} a second time`)
  }
  const parent = key.slice(0, -1).reduce((owner, name) => {
    const member = memberOf(owner, name, 'dotted')
    return member.kind === 'dotted' ? member : refuse()
  }, table)
  const name = key.at(-1) ?? ''
  if (parent.members.has(name)) refuse()
  parent.members.set(name, define('value'))
}

/** The member of a name, made if there is none. What is a value has no members: it stays one. */
function memberOf(table: Definition, name: string, kind: Definition['kind']): Definition {
  if (table.kind === 'value') return table
  const member = table.members.get(name) ?? define(kind)
  table.members.set(name, member)
  return member
}
