import { ApiError } from '../../shared/api/errors.ts'
import { projectWithId, requireLabel, type Admitted, type Guard } from '../accounts/guard.ts'
import type { Permission } from '../accounts/permissions.ts'
import type { LabelListing, LabelText, Labels as LabelStore } from '../store/labels.ts'

export interface LabelsDeps {
  readonly labels: LabelStore
  readonly guard: Pick<Guard, 'requireOwner'>
  /** Epoch ms. */
  readonly now: () => number
}

/** Whose labels a request means. */
export interface LabelScope {
  /** `g` global, `p` of a project. */
  readonly scope: string | undefined
  /** The project of scope `p`. */
  readonly projectId: number | undefined
}

export type LabelService = ReturnType<typeof createLabelService>

/** Labels, and the rules about them. [harbor src/server/v2.0/handler/label.go] */
export function createLabelService({ labels, guard, now }: LabelsDeps) {
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  /** The id of the project that the scope names; undefined for the global one. @throws as `requireOwner` */
  async function requireScope(
    { scope, projectId }: LabelScope,
    admitted: Admitted,
    permission: Permission,
  ): Promise<number | undefined> {
    if (scope !== 'g' && scope !== 'p') {
      throw new ApiError('BAD_REQUEST', 'scope must be g (global) or p (of a project)')
    }
    if (scope === 'p' && (projectId === undefined || projectId === 0)) {
      throw new ApiError('BAD_REQUEST', 'scope p needs the project_id')
    }
    const owner = scope === 'g' ? 'system' : projectWithId(projectId)
    return (await guard.requireOwner(admitted, permission, owner))?.id
  }

  return {
    /**
     * One page of the labels in a scope. Everybody sees the global ones, as in Harbor.
     * @throws ApiError BAD_REQUEST, FORBIDDEN, NOT_FOUND, UNAUTHORIZED
     */
    async list(
      scope: LabelScope,
      listing: Omit<LabelListing, 'projectId'>,
      admitted: Admitted,
    ): ReturnType<LabelStore['list']> {
      const projectId =
        scope.scope === 'g' ? undefined : await requireScope(scope, admitted, 'label:list')
      return labels.list({ ...listing, projectId })
    },

    /**
     * Creates a label.
     * @returns its id
     * @throws ApiError BAD_REQUEST, CONFLICT, FORBIDDEN, NOT_FOUND
     */
    async create(scope: LabelScope, text: LabelText, admitted: Admitted): Promise<number> {
      const projectId = await requireScope(scope, admitted, 'label:create')
      checkText(text)
      return labels.create({ ...text, projectId }, deedOf(admitted))
    },

    /** Changes what a label says; its scope stays. @throws ApiError BAD_REQUEST, CONFLICT, NOT_FOUND */
    async update(text: LabelText, admitted: Admitted): Promise<void> {
      checkText(text)
      if (!(await labels.update(requireLabel(admitted).id, text, deedOf(admitted)))) throw absent()
    },

    /** Deletes a label, wherever it is attached. @throws ApiError NOT_FOUND */
    async remove(admitted: Admitted): Promise<void> {
      if (!(await labels.remove(requireLabel(admitted).id, deedOf(admitted)))) throw absent()
    },
  }
}

const maxNameLength = 128
const nameGrammar = /^\P{Cc}+$/u
/** As the portal picks them; whatever else would end in a page's style. */
const colorGrammar = /^(?:#[0-9a-f]{3}|#[0-9a-f]{6})?$/i

/** Whether a label may have this name: Harbor's only rule is its length; ours is that people can read it. */
export function isLabelName(text: string): boolean {
  return text.length <= maxNameLength && text.trim() !== '' && nameGrammar.test(text)
}

/** @throws ApiError BAD_REQUEST */
function checkText({ name, color }: LabelText): void {
  if (!isLabelName(name)) {
    throw new ApiError(
      'BAD_REQUEST',
      `name must have 1 to ${maxNameLength} characters that can be printed`,
    )
  }
  if (!colorGrammar.test(color)) {
    throw new ApiError('BAD_REQUEST', 'color must be of the form #61717D, or left out')
  }
}

function absent(): ApiError {
  return new ApiError('NOT_FOUND', 'the label was deleted meanwhile')
}
