/** What a token asks for or grants on one resource: an entry of its `access` claim. [distribution, docs/spec/auth/scope] */
export interface Scope {
  readonly type: string
  readonly name: string
  readonly actions: readonly string[]
  /**
   * In a token for an edge, the id of the project that the repository's name stands in: what the edge holds
   * of an earlier project of that name does not count for this one.
   */
  readonly project?: number
}

/** More are dropped: with 32 entries a token stays well under the 8 KiB that header lines are safe for. */
export const maxScopes = 32

const maxScopeLength = 1024
const maxActions = 16
/** `type` or `type(class)`; the class is read and ignored. */
const typeGrammar = /^([a-z0-9]{1,64})(?:\([a-z0-9]{0,64}\))?$/
const nameGrammar = /^[A-Za-z0-9][A-Za-z0-9._:/-]{0,511}$/
const actionGrammar = /^(?:\*|[a-z]{1,32})$/

/**
 * Reads one `type[(class)]:name:action[,action]`. The name may hold a colon (`host:port/path`), so the
 * text is split at its first and its last colon; the class is ignored. [distribution, docs/spec/auth/scope]
 * @returns undefined when the text is not of the grammar: garbage is dropped, never an error
 */
export function parseScope(text: string): Scope | undefined {
  if (text.length > maxScopeLength) return undefined
  const first = text.indexOf(':')
  const last = text.lastIndexOf(':')
  if (first < 0 || last === first) return undefined
  const type = typeGrammar.exec(text.slice(0, first))?.[1]
  const name = text.slice(first + 1, last)
  const actions = unique(text.slice(last + 1).split(',')).filter((action) =>
    actionGrammar.test(action),
  )
  if (type === undefined || !nameGrammar.test(name)) return undefined
  if (actions.length === 0 || actions.length > maxActions) return undefined
  return { type, name, actions }
}

/**
 * Reads the scopes of a request: the parameter may be repeated, and each may hold several separated by
 * spaces. What names the same resource is merged; entries after the first 32 are dropped.
 */
export function parseScopes(parameters: readonly string[]): readonly Scope[] {
  const merged = new Map<string, Scope>()
  for (const text of parameters.flatMap((parameter) => parameter.split(' '))) {
    const scope = parseScope(text)
    if (scope === undefined) continue
    const key = `${scope.type}:${scope.name}`
    const known = merged.get(key)
    if (known === undefined && merged.size === maxScopes) continue
    const actions = unique([...(known?.actions ?? []), ...scope.actions])
    merged.set(key, { type: scope.type, name: scope.name, actions: actions.slice(0, maxActions) })
  }
  return [...merged.values()]
}

/** The text of a scope. Clients compare it as a string, so the actions keep their order. */
export function formatScope(scope: Scope): string {
  return `${scope.type}:${scope.name}:${scope.actions.join(',')}`
}

/** The scope of a repository over the distribution API. */
export function repositoryScope(name: string, actions: readonly string[]): Scope {
  return { type: 'repository', name, actions }
}

/** Whether `held` grants `action` on the resource; `*` grants every action. Names are compared exactly. */
export function containsAction(
  held: readonly Scope[],
  wanted: { readonly type: string; readonly name: string; readonly action: string },
): boolean {
  return held.some(
    (scope) =>
      scope.type === wanted.type &&
      scope.name === wanted.name &&
      (scope.actions.includes(wanted.action) || scope.actions.includes('*')),
  )
}

/** Whether `held` grants every action of `wanted`. */
export function containsScope(held: readonly Scope[], wanted: Scope): boolean {
  return wanted.actions.every((action) =>
    containsAction(held, { type: wanted.type, name: wanted.name, action }),
  )
}

function unique(texts: readonly string[]): readonly string[] {
  return [...new Set(texts)]
}
