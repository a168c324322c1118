import { timestamp } from '../../shared/api/fields.ts'
import { Type } from '../../shared/schema/type.ts'
import type { Label } from '../store/labels.ts'

/** A label as the API shows it. [harbor api/v2.0/swagger.yaml, Label] */
export const labelModel = Type.Object({
  id: Type.Integer(),
  name: Type.String(),
  description: Type.String(),
  color: Type.String(),
  scope: Type.String({ description: '`g` global, `p` of a project' }),
  project_id: Type.Integer({ description: '0 for a global one.' }),
  creation_time: timestamp,
  update_time: timestamp,
})

/** A label in the form of `labelModel`. */
export function showLabel(label: Label) {
  return {
    id: label.id,
    name: label.name,
    description: label.description,
    color: label.color,
    scope: label.projectId === undefined ? 'g' : 'p',
    project_id: label.projectId ?? 0,
    creation_time: label.createdAt.toISOString(),
    update_time: label.updatedAt.toISOString(),
  }
}
